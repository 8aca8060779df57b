"""Files that give captions to images (or videos), in every form in which corpora are published, as rows.

[{"image": "a/b.jpg", "caption": "one" or ["one", "two"]}, …]      json of UMT, VindLU, ALBEF; "video" as well
annos(id, filename, caption)                                       the same as an SQLite table
{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}     COCO captions_train2014.json
[{"image_id": 42, "caption": "one"}, …]                            COCO results
{"id", "image", "captions": ["one", "two"]}                        one object a line (jsonl)
{"train": {"00000000": ["one"]}, "val": {…}}                       CC3M of VIOLET
caption, url, file; url, caption, file                             CC3M, CC12M; tab-separated, with or without header
{"image_urls": […], "captions": […], "user_ids": […]}              SBU sbu-captions-all.json
SBU_captioned_photo_dataset_urls.txt, …_captions.txt               SBU, line for line
[{"id": 1, "regions": [{"phrase", "width", "height", …}]}, …]      Visual Genome region_descriptions.json
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.tables.table import (
    ColumnsError,
    Table,
    clean,
    read_json,
    read_json_lines,
    read_text,
    split_lines,
    unused_note,
)
from umt_ds.data.shards.fetch import local_copy
from umt_ds.errors import ConfigError, DataError, quoted, shown

# What the field or column is called that names the file, or has the text.
_FILE = ("image", "video", "file", "filename", "file_name", "filepath", "path")
_CAPTION = ("caption", "captions", "text", "title")
_MOST_SPLITS = 10  # more are no splits but videos, as in annotations of ActivityNet
_SBU = re.compile(r"(?P<start>.*)_(?:urls|captions)\.txt")
_DOWNLOAD = (
    "let img2dataset download it and use `umt-data index`, or `umt-data parquet` for what it wrote as files; or add "
    "the file names as a third column"
)


@dataclass
class PairNotes:
    """What there is to say of an annotation file, once it is read."""

    unused: set[str] = field(default_factory=set)
    doubts: list[str] = field(default_factory=list)
    min_area: int = 0  # pixels that the region of a phrase has at least
    num_phrases: int = 0  # of regions
    num_small: int = 0  # and those of smaller ones

    def notes(self, path: Path) -> tuple[str, ...]:
        small = (
            f"left out {self.num_small:,} of {self.num_phrases:,} phrases, of regions below {self.min_area:,} pixels"
        )
        return (*unused_note("field", sorted(self.unused), path), *self.doubts, *([small] if self.num_small else []))


class Pair(NamedTuple):
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


class _Region(NamedTuple):
    phrase: str
    area: float  # pixels


def read_pairs(path: Path, *, split: str | None = None, min_area: int = 0) -> tuple[Iterator[Pair], PairNotes]:
    """The rows of an annotation file of any form, and what there is to say of it when they are read. min_area: leaves
    out phrases of smaller regions. Raises DataError where the file has none of the forms, ConfigError for a `min_area`
    where there are no regions."""
    said = PairNotes(min_area=min_area)
    rows = _read(path, split, said)
    if min_area and not said.num_phrases:
        raise ConfigError(f"--min-area: {path} has no regions", hint="Visual Genome's region_descriptions.json has")
    return rows, said


def _read(path: Path, split: str | None, said: PairNotes) -> Iterator[Pair]:
    try:
        with path.open("rb") as file:
            is_sqlite = file.read(16) == b"SQLite format 3\0"
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    suffix = "sqlite" if is_sqlite else path.suffix.lower()
    compact = partial(_compact, said)
    if suffix in (".parquet", ".tar"):
        command = "parquet" if suffix == ".parquet" else "index"
        raise DataError(f"{path} is no annotation file of pairs", hint=f"`umt-data {command}` takes the folder of it")
    if suffix == ".txt" and (sbu := _SBU.fullmatch(path.name)):
        return _of_sbu_lines(path, sbu["start"], split)
    content = read_json(path, each=compact) if suffix not in ("sqlite", ".tsv", ".csv", ".jsonl") else None
    if isinstance(content, dict) and {"image_urls", "captions"} <= content.keys():
        return _of_sbu(content["image_urls"], content["captions"], path)
    if isinstance(content, dict) and content and all(isinstance(part, dict) for part in content.values()):
        return _of_violet(content, path, split)
    if split is not None:
        raise _no_splits(path, split)
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


def _no_splits(path: Path, split: str) -> DataError:
    return DataError(f"{path} has no splits, so no {split!r}", hint="leave --split out")


def _unknown_form(path: Path) -> DataError:
    return DataError(f"{path} is none of the forms that are known", hint="`umt-data pairs --help` shows them")


def _compact(said: PairNotes, entry: dict[str, Any]) -> object:
    """An object of a json file as the tuple it stands for, if it is a row: ten million dicts would fill the memory."""
    file = next((field for field in (*_FILE, "image_id") if field in entry), None)
    caption = next((field for field in _CAPTION if field in entry), None)
    if file and caption:
        said.unused |= entry.keys() - {file, caption}
        return _Unchecked(entry[file], entry[caption])
    if "phrase" in entry or "regions" in entry:
        return _of_visual_genome(said, entry)
    number, name = entry.get("id"), entry.get("file_name")
    if type(number) is int and isinstance(name, str):
        said.unused |= entry.keys() - {"id", "file_name"}
        return _CocoImage(number, name)
    return entry


def _of_visual_genome(said: PairNotes, entry: dict[str, Any]) -> object:
    """A region, or an image with its regions as a row, of region_descriptions.json. Image 42 is 42.jpg."""
    phrase, width, height = (entry.get(name) for name in ("phrase", "width", "height"))
    if isinstance(phrase, str) and isinstance(width, int | float) and isinstance(height, int | float):
        return _Region(phrase, width * height)
    number, regions = entry.get("image_id", entry.get("id")), entry.get("regions")
    if type(number) is not int or not isinstance(regions, list) or not all(isinstance(r, _Region) for r in regions):
        return entry
    large = [region.phrase for region in regions if region.area >= said.min_area]
    said.num_phrases += len(regions)
    said.num_small += len(regions) - len(large)
    return _Unchecked(f"{number}.jpg", large)


def _of_sbu(addresses: object, captions: object, path: Path) -> Iterator[Pair]:
    if not isinstance(addresses, list) or not isinstance(captions, list) or len(addresses) != len(captions):
        counts = [len(one) if isinstance(one, list) else "no list" for one in (addresses, captions)]
        raise DataError(f"{path}: image_urls and captions are not lists of one length ({counts[0]}, {counts[1]})")
    rows = (_Unchecked(*row) for row in zip(addresses, captions, strict=True))
    return _checked(enumerate(rows, start=1), path)


def _of_sbu_lines(path: Path, start: str, split: str | None) -> Iterator[Pair]:
    """Two files that belong together line for line, of which `path` is one."""
    if split is not None:
        raise _no_splits(path, split)
    files = [path.with_name(f"{start}_{what}.txt") for what in ("urls", "captions")]
    addresses, captions = (read_text(file).replace("\r\n", "\n").removesuffix("\n").split("\n") for file in files)
    if len(addresses) != len(captions):
        raise DataError(
            f"{files[0]} has {len(addresses):,} lines, {files[1].name} {len(captions):,}: line by line they are pairs",
            hint="unpack both again",
        )
    return _of_sbu(addresses, captions, path)


def _checked(entries: Iterable[tuple[int, object]], path: Path, what: str = "entry") -> Iterator[Pair]:
    """The numbered entries as rows; one that names several files as several rows. Raises DataError where one is no
    row."""
    for number, entry in entries:
        name, captions = entry if isinstance(entry, _Unchecked) else (None, None)
        names: list[Any] = name if isinstance(name, list) else [name]
        texts = [captions] if isinstance(captions, str) else [] if captions is None else captions
        are_names = bool(names) and all(isinstance(one, str) or type(one) is int for one in names)
        if not are_names or not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            is_vg = isinstance(entry, dict) and "coco_id" in entry  # image_data.json
            hint = "Visual Genome's captions are in region_descriptions.json, or ALBEF's vg.json" if is_vg else None
            raise DataError(f"{path}: {what} {number} is no file with captions: {_shown(entry)}", hint=hint)
        for one in names:
            yield Pair(one, [text for text in map(clean, texts) if text], number)


def _shown(entry: object) -> str:
    return shown(str(entry), 160)


def _of_coco(images: object, annotations: object, path: Path) -> Iterator[Pair]:
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


def _of_violet(splits: Mapping[str, Mapping[str, object]], path: Path, split: str | None) -> Iterator[Pair]:
    if len(splits) > _MOST_SPLITS:
        raise _unknown_form(path)
    split = next(iter(splits)) if split is None and len(splits) == 1 else split
    if split is None or split not in splits:
        raise DataError(f"{path} has the splits {clean(', '.join(splits))}", hint="choose one with --split")
    rows = (_Unchecked(name, texts) for name, texts in splits[split].items())
    return _checked(enumerate(rows, start=1), path, f"in {split}, entry")


def _read_table(path: Path, delimiter: str, said: PairNotes) -> Iterator[Pair]:
    try:
        table = Table(path, columns=(_FILE, _CAPTION), delimiter=delimiter)
    except ColumnsError as error:
        if error.missing == (_FILE,) and any(
            re.fullmatch(r"(image_?)?ur[li]s?", name.lower()) for name in error.header
        ):
            raise DataError(error.what, hint=f"addresses name no files: {_DOWNLOAD}") from error
        if len(error.missing) == 1:
            raise
        yield from _without_header(path, delimiter)
        return
    for line, (name, text) in table:
        yield Pair(name, [text] if text else [], line)
    said.unused |= set(table.unused)
    said.doubts += table.doubts


def _without_header(path: Path, delimiter: str) -> Iterator[Pair]:
    """The table of CC3M (caption, url) or CC12M (url, caption) with a third column. Its texts are not quoted."""
    place = 0  # of the caption
    is_first = True
    for line, fields in split_lines(path, delimiter=delimiter):
        if len(fields) != 3:
            raise DataError(
                f"{path} line {line} has {len(fields)} columns, not caption, url and file name",
                hint=f"the published lists of CC3M and CC12M do not name files: {_DOWNLOAD}",
            )
        if is_first and fields[1] and not any(map(_is_url, fields)) and "." not in fields[2]:
            raise DataError(
                f"{path} line {line} is neither caption, url and file name nor a header that is known: "
                f"{', '.join(fields)[:100]}",
                hint=f"a header names the columns {'/'.join(_FILE)} and {'/'.join(_CAPTION)}",
            )
        if is_first:
            place = 1 if _is_url(fields[0]) and not _is_url(fields[1]) else 0
        is_first = False
        yield Pair(fields[2], [fields[place]] if fields[place] else [], line)


def _is_url(text: str) -> bool:
    return "://" in text and " " not in text


def _read_sqlite(path: Path, said: PairNotes) -> Iterator[Pair]:
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
