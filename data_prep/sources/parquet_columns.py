"""Which column of parquet files has the pictures or videos, which the captions, labels and keys."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.tables.parquet_files import Column, ParquetFile
from umt_ds.data.shards.storage import kind_of
from umt_ds.errors import ConfigError, DataError, shown, some

# What columns are called where nobody says which one is meant, the likeliest first.
_MEDIA = ("image", "video", "img", "jpg", "jpeg", "png", "webp", "mp4", "picture", "photo")
_PATHS = ("image", "video", "file", "file_name", "filename", "filepath", "path", "image_path", "video_path")
_CAPTION = ("caption", "captions", "text", "texts", "title")
_LABEL = ("label", "labels", "cls")
DOWNLOADS = "img2dataset --input_format parquet downloads them; then `umt-data index` takes its tars"


@dataclass(frozen=True)
class Choice:
    """Which columns of the files are meant; None: by their names and kinds."""

    media: str | None = None
    caption: str | None = None
    label: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class Columns:
    """The columns that are used. `key` and `caption` may be parts of a column: `image.path`."""

    media: Column
    caption: Column | None
    label: Column | None
    key: Column | None
    key_leaf: str = ""
    unused: tuple[str, ...] = ()

    @property
    def used(self) -> tuple[Column, ...]:
        return tuple(column for column in (self.media, self.caption, self.label, self.key) if column)

    @property
    def path_leaf(self) -> str | None:
        """What has the path of the file of a row."""
        return self.media.name if self.media.kind == "text" else self.media.path_leaf

    @property
    def leaves(self) -> list[str]:
        """What is read of each row to list it."""
        columns = [column.name for column in (self.caption, self.label) if column]
        return list(dict.fromkeys(filter(None, [self.path_leaf, *columns, self.key_leaf])))


def chosen(file: ParquetFile, choice: Choice) -> Columns:
    """The columns of a file that are meant. Raises ConfigError where one that was named is not there or of another
    kind, or several can be meant; DataError where none has pictures, videos or their paths."""
    there = {column.name: column for column in file.columns}
    media = _media(file, there, choice.media)
    caption = _named(file, there, choice.caption, "--caption") or _first(there, _CAPTION, ("text", "texts"), media)
    label = _named(file, there, choice.label, "--label") or _label(there, media)
    key = _named(
        file, there, choice.key if choice.key in there else (choice.key or "").partition(".")[0] or None, "--key"
    )
    _check_kind(caption, "--caption", ("text", "texts"), "text or list of texts", there)
    _check_kind(label, "--label", ("number", "text"), "number or name of a class", there)
    if key and choice.key == key.name:
        _check_kind(key, "--key", ("text", "number"), "text or number", there)
    used = {column.name for column in (media, caption, label, key) if column}
    return Columns(media, caption, label, key, choice.key or "", tuple(name for name in there if name not in used))


def _media(file: ParquetFile, there: Mapping[str, Column], name: str | None) -> Column:
    if given := _named(file, there, name, "--media"):
        _check_kind(given, "--media", ("media", "bytes", "text"), "picture, video, bytes or path", there)
        return given
    with_bytes = [column for column in there.values() if column.has_bytes]
    if len(with_bytes) > 1:
        usual = [column for column in with_bytes if column.name.lower() in _MEDIA]
        if len(usual) != 1:
            raise ConfigError(
                f"{file.path} has {len(with_bytes)} columns of bytes: {some(with_bytes)}",
                hint="choose one with --media",
            )
        return usual[0]
    found = with_bytes[0] if with_bytes else _first(there, _PATHS, ("text",), None)
    if found is None:
        raise _no_media(file, there)
    return found


def _no_media(file: ParquetFile, there: Mapping[str, Column]) -> DataError:
    """The error for files without pictures; most often they hold addresses."""
    urls = [name for name, column in there.items() if column.kind == "text" and re.search(r"\bur[li]", name.lower())]
    what = f"{file.path} has no column with pictures, videos or their paths: {some(there.values(), 12)}"
    if kind_of(file.path.with_suffix(".tar")):  # img2dataset and video2dataset write their notes beside
        return DataError(what, hint=f"the tar of this name beside it has them: `umt-data index {file.path.parent}`")
    if "key" in there and kind_of(file.path.with_suffix("")):
        return DataError(what, hint="the folder of this name beside it has them: --media key")
    if urls:
        return DataError(what, hint=f"{urls[0]} has addresses, and nothing is downloaded here: {DOWNLOADS}")
    return DataError(what, hint="choose one with --media")


def _named(file: ParquetFile, there: Mapping[str, Column], name: str | None, option: str) -> Column | None:
    if name is None or name in there:
        return None if name is None else there[name]
    raise ConfigError(f"{option} {name}: {file.path} has no such column", hint=f"it has {some(there.values(), 12)}")


def _first(
    there: Mapping[str, Column], names: Sequence[str], kinds: Sequence[str], but: Column | None
) -> Column | None:
    lowered = {name.lower(): column for name, column in there.items() if column.kind in kinds and column != but}
    return next((lowered[name] for name in names if name in lowered), None)


def _label(there: Mapping[str, Column], media: Column) -> Column | None:
    """The only column of classes, or the first that is called so."""
    of_classes = [column for column in there.values() if column.names]
    return of_classes[0] if len(of_classes) == 1 else _first(there, _LABEL, ("number", "text"), media)


def _check_kind(
    column: Column | None, option: str, kinds: Sequence[str], what: str, there: Mapping[str, Column]
) -> None:
    if column is not None and column.kind not in kinds:
        fit = some((str(one) for one in there.values() if one.kind in kinds), 12)
        raise ConfigError(
            f"{option} {column.name}: it holds {shown(column.type, 80)}, which is no {what}",
            hint=f"columns that are: {fit}" if fit else "no column is",
        )


def leaf_of(row: Mapping[str, Any], leaf: str | None) -> object:
    """The value of a column, or of a part of one: `image.path`."""
    if leaf is None:
        return None
    value: object = row
    for name in (leaf,) if leaf in row else leaf.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
