"""Pairs of images (or videos) and captions: CC3M, COCO, and the annotation files of UMT and VindLU.

[{"image": "a/b.jpg", "caption": "one" or ["one", "two"]}, …]      json of UMT, VindLU, ALBEF; "video" as well
annos(id, filename, caption)                                       the same as an SQLite table
{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}     COCO captions_train2014.json
[{"image_id": 42, "caption": "one"}, …]                            COCO results
{"id", "image", "captions": ["one", "two"]}                        one object a line (jsonl)
{"train": {"00000000": ["one"]}, "val": {…}}                       CC3M of VIOLET
caption, url, file                                                 tab-separated, with or without header
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from data_prep.clip import Clip, Extra, Listing, Refusal
from data_prep.sources.names import FileFinder, Missing
from data_prep.sources.scan import Keys, about_keys, no_file_of, scan
from data_prep.tables.table import (
    ColumnsError,
    Table,
    clean,
    read_json,
    read_json_lines,
    split_lines,
    unused_note,
)
from umt_ds.data.shards.fetch import local_copy
from umt_ds.data.shards.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from umt_ds.errors import DataError, quoted, shown

# What the field or column is called that names the file, or has the text.
_FILE = ("image", "video", "file", "filename", "file_name", "filepath", "path")
_CAPTION = ("caption", "captions", "text", "title")
_COCO_FILE = re.compile(r"\d{12}\.jpg")
_MOST_SPLITS = 10  # more are no splits but videos, as in annotations of ActivityNet
_NO_EXTRA: Extra = {}  # one for ten million clips


def list_pairs(
    folder: Path,
    *,
    annotations: Path,
    media: Literal["image", "video"] | None = None,
    split: str | None = None,
    keys: Keys = "stem",
) -> Listing:
    """The images (or videos) that an annotation file names, and their captions: all rows of a file are one sample.

    Whether it is images or videos the first name tells; one without suffix is an image unless `media` says so.
    `split` chooses one of a file that has several. Rows without a file are left out and reported.
    Raises DataError where the annotations cannot be read or not one row has a file.
    """
    said = _Said()
    rows = _read(annotations, split, said)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{annotations} has no rows")
    media = media or _media_of(str(first.name))
    found = scan(folder, media, keys=keys)
    names = FileFinder(found, folder, what="file")
    captions: dict[str, tuple[str, ...]] = {}
    left_out: list[Refusal] = []
    num_same = 0
    for name, texts, number in chain([first], rows):
        path = names.file_of(*_spellings(name))
        if isinstance(path, Missing):
            reason = f"is no {media} by its name" if _is_other(name, media) else path.reason
            left_out.append(Refusal(clean(str(name)) or f"{annotations.name} row {number}", reason))
        elif not texts:
            left_out.append(Refusal(clean(str(name)), "no caption"))
        else:
            known = captions.get(path, ())
            captions[path] = tuple(dict.fromkeys((*known, *texts)))
            num_same += len(known) + len(texts) - len(captions[path])
    if not captions:
        looked_for, why = clean(" or ".join(_spellings(first.name))), left_out[0].reason
        raise no_file_of(annotations, len(left_out), folder, looked_for=looked_for, why=why)
    same = (f"left out {num_same:,} captions that their {media} has already",) if num_same else ()
    told = f"{len(captions):,} {media}s have {sum(map(len, captions.values())):,} captions"
    return Listing(
        root=folder,
        clips=tuple(Clip(found.key(path), path, texts, extra=_NO_EXTRA) for path, texts in captions.items()),
        media=media,
        left_out=(*found.unusable, *left_out),
        about={"source": "pairs", **about_keys(keys)},
        notes=(*found.notes, *found.unnamed(len(captions)), *said.notes(annotations), *same, told),
    )


@dataclass
class _Said:
    """What there is to say of an annotation file, once it is read."""

    unused: set[str] = field(default_factory=set)
    doubts: list[str] = field(default_factory=list)

    def notes(self, path: Path) -> tuple[str, ...]:
        return (*unused_note("field", sorted(self.unused), path), *self.doubts)


class _Row(NamedTuple):
    """One row, of whatever form. COCO's name is a number."""

    name: str | int
    captions: Sequence[str]
    number: int  # of the entry, or the line


class _Unchecked(NamedTuple):
    """What stands in the place of a row's name (or names) and captions."""

    name: object
    captions: object

    def __repr__(self) -> str:
        """For people, as part of an error."""
        return f"file {quoted(str(self.name))}, captions {quoted(str(self.captions))}"


class _CocoImage(NamedTuple):
    number: int
    file: str

    def __repr__(self) -> str:
        """For people, as part of an error."""
        return f"image {self.number}, {quoted(self.file)}, without caption"


def _media_of(name: str) -> Literal["image", "video"]:
    return "video" if name.rpartition(".")[2].lower() in VIDEO_SUFFIXES else "image"


def _is_other(name: str | int, media: Literal["image", "video"]) -> bool:
    """Whether a name is that of a picture where videos are wanted, or of a video where pictures are."""
    suffixes = IMAGE_SUFFIXES if media == "video" else VIDEO_SUFFIXES
    return isinstance(name, str) and name.strip().rpartition(".")[2].lower() in suffixes


def _spellings(name: str | int) -> list[str]:
    """COCO calls image 42 COCO_val2014_000000000042.jpg, and since 2017 000000000042.jpg."""
    file = f"{name:012d}.jpg" if isinstance(name, int) else name
    return [file, f"COCO_val2014_{file}", f"COCO_train2014_{file}"] if _COCO_FILE.fullmatch(file) else [file]


def _read(path: Path, split: str | None, said: _Said) -> Iterator[_Row]:
    """The rows of an annotation file of any form. Raises DataError where it has none of them."""
    try:
        with path.open("rb") as file:
            is_sqlite = file.read(16) == b"SQLite format 3\0"
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    suffix = "sqlite" if is_sqlite else path.suffix.lower()
    compact = partial(_compact, said)
    content = read_json(path, each=compact) if suffix not in ("sqlite", ".tsv", ".csv", ".jsonl") else None
    if isinstance(content, dict) and content and all(isinstance(part, dict) for part in content.values()):
        return _of_violet(content, path, split)
    if split is not None:
        raise DataError(f"{path} has no splits, so no {split!r}", hint="leave --split out")
    match suffix:
        case "sqlite":
            return _read_sqlite(path, said)
        case ".jsonl":
            return _checked(read_json_lines(path, each=compact), path, "line")
        case ".tsv" | ".csv":
            return _read_table(path, "\t" if suffix == ".tsv" else ",", said)
    if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        return _of_coco(content["images"], content["annotations"], path)
    if isinstance(content, list):
        return _checked(enumerate(content, start=1), path)
    raise _unknown_form(path)


def _unknown_form(path: Path) -> DataError:
    return DataError(f"{path} is none of the forms that are known", hint="`umt-data pairs --help` shows them")


def _compact(said: _Said, entry: dict[str, Any]) -> object:
    """An object of a json file as the tuple it stands for, if it is a row: ten million dicts would fill the memory."""
    file = next((field for field in (*_FILE, "image_id") if field in entry), None)
    caption = next((field for field in _CAPTION if field in entry), None)
    if file and caption:
        said.unused |= entry.keys() - {file, caption}
        return _Unchecked(entry[file], entry[caption])
    number, name = entry.get("id"), entry.get("file_name")
    if type(number) is int and isinstance(name, str):
        said.unused |= entry.keys() - {"id", "file_name"}
        return _CocoImage(number, name)
    return entry


def _checked(entries: Iterable[tuple[int, object]], path: Path, what: str = "entry") -> Iterator[_Row]:
    """The numbered entries as rows; one that names several files as several rows. Raises DataError where one is no
    row."""
    for number, entry in entries:
        name, captions = entry if isinstance(entry, _Unchecked) else (None, None)
        names: list[Any] = name if isinstance(name, list) else [name]
        texts = [captions] if isinstance(captions, str) else [] if captions is None else captions
        are_names = bool(names) and all(isinstance(one, str) or type(one) is int for one in names)
        if not are_names or not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{path}: {what} {number} is no file with captions: {_shown(entry)}")
        for one in names:
            yield _Row(one, [text for text in map(clean, texts) if text], number)


def _shown(entry: object) -> str:
    return shown(str(entry), 160)


def _of_coco(images: object, annotations: object, path: Path) -> Iterator[_Row]:
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise DataError(f"{path}: images and annotations must be lists")
    files: dict[int, str] = {}
    for number, image in enumerate(images, start=1):
        if not isinstance(image, _CocoImage):
            raise DataError(
                f"{path}: entry {number} of images has no id (a whole number) and file_name: {_shown(image)}"
            )
        if files.setdefault(image.number, image.file) != image.file:
            raise DataError(f"{path}: image {image.number} is both {files[image.number]!r} and {image.file!r}")
    for row in _checked(enumerate(annotations, start=1), path):
        yield row._replace(name=files.get(row.name, row.name)) if isinstance(row.name, int) else row


def _of_violet(splits: Mapping[str, Mapping[str, object]], path: Path, split: str | None) -> Iterator[_Row]:
    if len(splits) > _MOST_SPLITS:
        raise _unknown_form(path)
    split = next(iter(splits)) if split is None and len(splits) == 1 else split
    if split is None or split not in splits:
        raise DataError(f"{path} has the splits {clean(', '.join(splits))}", hint="choose one with --split")
    rows = (_Unchecked(name, texts) for name, texts in splits[split].items())
    return _checked(enumerate(rows, start=1), path, f"in {split}, entry")


def _read_table(path: Path, delimiter: str, said: _Said) -> Iterator[_Row]:
    try:
        table = Table(path, columns=(_FILE, _CAPTION), delimiter=delimiter)
    except ColumnsError as error:
        if len(error.missing) == 1:
            raise
        yield from _without_header(path, delimiter)
        return
    for line, (name, text) in table:
        yield _Row(name, [text] if text else [], line)
    said.unused |= set(table.unused)
    said.doubts += table.doubts


def _without_header(path: Path, delimiter: str) -> Iterator[_Row]:
    """CC3M's table with a third column. Its texts are not quoted."""
    is_first = True
    for line, fields in split_lines(path, delimiter=delimiter):
        if len(fields) != 3:
            raise DataError(
                f"{path} line {line} has {len(fields)} columns, not caption, url and file name",
                hint="the published CC3M list does not name files: let img2dataset download it and use "
                "`umt-data index`, or add the file names as a third column",
            )
        text, url, name = fields
        if is_first and url and "://" not in url and "." not in name:
            raise DataError(
                f"{path} line {line} is neither caption, url and file name nor a header that is known: "
                f"{', '.join(fields)[:100]}",
                hint=f"a header names the columns {'/'.join(_FILE)} and {'/'.join(_CAPTION)}",
            )
        if is_first and _is_url(text) and not _is_url(url):
            raise DataError(
                f"{path} line {line} begins with a URL: {text[:80]}",
                hint="without a header the columns are caption, url and file name",
            )
        is_first = False
        yield _Row(name, [text] if text else [], line)


def _is_url(text: str) -> bool:
    return "://" in text and " " not in text


def _read_sqlite(path: Path, said: _Said) -> Iterator[_Row]:
    try:
        with local_copy(path) as local:
            # immutable: SQLite would write files beside it, and the folder may be read-only
            uri = f"{local.resolve().as_uri()}?mode=ro&immutable=1"
            with closing(sqlite3.connect(uri, uri=True)) as database:
                columns = {row[1].lower() for row in database.execute("PRAGMA table_info(annos)")}  # as SQL compares
                file, caption = (next((name for name in of if name in columns), None) for of in (_FILE, _CAPTION))
                if file is None or caption is None:
                    there = f", its table annos has the columns {', '.join(sorted(columns))}" if columns else ""
                    raise DataError(f"{path} has no table annos(id, filename, caption){there}")
                said.unused |= columns - {file, caption, "id"}
                order = "id" if "id" in columns else "rowid"
                rows = database.execute(f"SELECT {file}, {caption} FROM annos ORDER BY {order}")
                yield from _checked(enumerate((_Unchecked(*row) for row in rows), start=1), path, "row")
    except sqlite3.Error as error:
        raise DataError(f"{path} cannot be read as an SQLite database: {error}") from error
