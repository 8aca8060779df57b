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

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from data_prep.clip import Clip, Extra, Listing, Refusal
from data_prep.labels import clean, lines_of, read_json, rows_of
from data_prep.sources.folder import Found, no_file_of, scan
from umt_ds.data.fetch import local_copy
from umt_ds.data.records import VIDEO_SUFFIXES
from umt_ds.errors import DataError

# What the field or column is called that names the file, or has the text.
_FILE = ("image", "video", "file", "filename", "file_name", "filepath", "path")
_CAPTION = ("caption", "captions", "text", "title")
_COCO_FILE = re.compile(r"\d{12}\.jpg")
_NO_EXTRA: Extra = {}  # one for ten million clips


def list_pairs(
    folder: Path, *, annotations: Path, media: Literal["image", "video"] | None = None, split: str | None = None
) -> Listing:
    """The images (or videos) that an annotation file names, and their captions: all rows of a file are one sample.

    Whether it is images or videos the first name tells; one without suffix is an image unless `media` says so.
    `split` chooses one of a file that has several. Rows without a file are left out and reported.
    Raises DataError where the annotations cannot be read or not one row has a file.
    """
    rows = _read(annotations, split)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{annotations} has no rows")
    media = media or _media_of(str(first.name))
    found = scan(folder, media)
    captions: dict[str, tuple[str, ...]] = {}
    left_out: list[Refusal] = []
    for name, texts in chain([first], rows):
        paths = _find(found, name)
        if len(paths) != 1:
            reason = f"{len(paths)} files have this name" if paths else "missing: no such file"
            left_out.append(Refusal(str(name), reason))
        elif not texts:
            left_out.append(Refusal(str(name), "no caption"))
        else:
            known = captions.get(paths[0], ())
            captions[paths[0]] = (*known, *(text for text in texts if text not in known))
    if not captions:
        raise no_file_of(annotations, len(left_out), folder, looked_for=" or ".join(_spellings(first.name)))
    told = f"{len(captions):,} {media}s have {sum(map(len, captions.values())):,} captions"
    return Listing(
        root=folder,
        clips=tuple(Clip(found.key(path), path, texts, extra=_NO_EXTRA) for path, texts in captions.items()),
        media=media,
        left_out=(*found.unusable, *left_out),
        about={"source": "pairs"},
        notes=(*found.notes, *found.unnamed(len(captions)), told),
    )


class _Row(NamedTuple):
    """One row, of whatever form. COCO's name is a number."""

    name: str | int
    captions: Sequence[str]


class _Unchecked(NamedTuple):
    """What stands in the place of a row's name (or names) and captions."""

    name: object
    captions: object


class _CocoImage(NamedTuple):
    number: int
    file: str


def _media_of(name: str) -> Literal["image", "video"]:
    return "video" if name.rpartition(".")[2].lower() in VIDEO_SUFFIXES else "image"


def _find(found: Found, name: str | int) -> list[str]:
    return next((paths for spelling in _spellings(name) if (paths := found.find(spelling))), [])


def _spellings(name: str | int) -> list[str]:
    """COCO calls image 42 COCO_val2014_000000000042.jpg, and since 2017 000000000042.jpg."""
    file = f"{name:012d}.jpg" if isinstance(name, int) else name
    return [file, f"COCO_val2014_{file}", f"COCO_train2014_{file}"] if _COCO_FILE.fullmatch(file) else [file]


def _read(path: Path, split: str | None) -> Iterator[_Row]:
    """The rows of an annotation file of any form. Raises DataError where it has none of them."""
    try:
        with path.open("rb") as file:
            is_sqlite = file.read(16) == b"SQLite format 3\0"
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    suffix = "sqlite" if is_sqlite else path.suffix.lower()
    content = read_json(path, each=_compact) if suffix not in ("sqlite", ".tsv", ".csv", ".jsonl") else None
    if isinstance(content, dict) and content and all(isinstance(part, dict) for part in content.values()):
        return _of_violet(content, path, split)
    if split is not None:
        raise DataError(f"{path} has no splits, so no {split!r}", hint="leave --split out")
    match suffix:
        case "sqlite":
            return _read_sqlite(path)
        case ".jsonl":
            return _checked(_read_jsonl(path), path)
        case ".tsv" | ".csv":
            return _read_table(path, "\t" if suffix == ".tsv" else ",")
    if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        return _of_coco(content["images"], content["annotations"], path)
    if isinstance(content, list):
        return _checked(content, path)
    raise DataError(f"{path} is none of the forms that are known", hint="`umt-data pairs --help` shows them")


def _compact(entry: dict[str, Any]) -> object:
    """An object of a json file as the tuple it stands for, if it is a row: ten million dicts would fill the memory."""
    file = next((field for field in (*_FILE, "image_id") if field in entry), None)
    caption = next((field for field in _CAPTION if field in entry), None)
    if file and caption:
        return _Unchecked(entry[file], entry[caption])
    number, name = entry.get("id"), entry.get("file_name")
    return _CocoImage(number, name) if isinstance(number, int) and isinstance(name, str) else entry


def _checked(entries: Iterable[object], path: Path) -> Iterator[_Row]:
    """The entries as rows; one that names several files as several rows. Raises DataError where one is no row."""
    for number, entry in enumerate(entries, start=1):
        name, captions = entry if isinstance(entry, _Unchecked) else (None, None)
        names: list[Any] = name if isinstance(name, list) else [name]
        texts = [captions] if isinstance(captions, str) else captions or []
        are_names = all(isinstance(one, (str, int)) for one in names)
        if not are_names or not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{path}: entry {number} is no file with captions: {str(entry)[:100]}")
        for one in names:
            yield _Row(one, [text for text in map(clean, texts) if text])


def _of_coco(images: object, annotations: object, path: Path) -> Iterator[_Row]:
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise DataError(f"{path}: images and annotations must be lists")
    files = {image.number: image.file for image in images if isinstance(image, _CocoImage)}
    for row in _checked(annotations, path):
        yield _Row(files.get(row.name, row.name) if isinstance(row.name, int) else row.name, row.captions)


def _of_violet(splits: Mapping[str, Mapping[str, object]], path: Path, split: str | None) -> Iterator[_Row]:
    split = next(iter(splits)) if split is None and len(splits) == 1 else split
    if split is None or split not in splits:
        raise DataError(f"{path} has the splits {', '.join(splits)}", hint="choose one with --split")
    return _checked((_Unchecked(name, texts) for name, texts in splits[split].items()), path)


def _read_jsonl(path: Path) -> Iterator[object]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                if line.strip():
                    yield json.loads(line, object_hook=_compact)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as one JSON object a line: {error}") from error


def _read_table(path: Path, delimiter: str) -> Iterator[_Row]:
    _, header = next(lines_of(path, delimiter=delimiter), (1, []))
    file, caption = (next((name for name in names if name in header), None) for names in (_FILE, _CAPTION))
    if file and caption:
        for name, text in rows_of(path, columns=(file, caption), delimiter=delimiter):
            yield _Row(name, [text] if text else [])
        return
    for line, fields in lines_of(path, delimiter=delimiter, quoted=False):
        if len(fields) != 3:
            raise DataError(
                f"{path} line {line} has {len(fields)} columns, not caption, url and file name",
                hint="the published CC3M list does not name files: let img2dataset download it and use "
                "`umt-data index`, or add the file names as a third column",
            )
        yield _Row(fields[2].strip(), [fields[0].strip()] if fields[0].strip() else [])


def _read_sqlite(path: Path) -> Iterator[_Row]:
    try:
        with local_copy(path) as local:
            # immutable: SQLite would write files beside it, and the folder may be read-only
            uri = f"{local.resolve().as_uri()}?mode=ro&immutable=1"
            with closing(sqlite3.connect(uri, uri=True)) as database:
                columns = {row[1] for row in database.execute("PRAGMA table_info(annos)")}
                file = next((name for name in _FILE if name in columns), None)
                if file is None or "caption" not in columns:
                    raise DataError(f"{path} has no table annos(id, filename, caption)")
                rows = database.execute(f"SELECT {file}, caption FROM annos ORDER BY id")
                yield from _checked((_Unchecked(*row) for row in rows), path)
    except sqlite3.Error as error:
        raise DataError(f"{path} cannot be read as an SQLite database: {error}") from error
