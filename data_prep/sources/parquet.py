"""Parquet files with pictures or videos in them, or with their paths, as data sets on the Hugging Face hub are.

    FOLDER/data/train-00000-of-00012.parquet     image, caption, label, … (`tables/parquet_files.py`)

A row is a clip. Its bytes are in the file, or else in a file below FOLDER whose path the row has.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_prep.clip import Cell, Clip, Listing, Refusal
from data_prep.sources.names import FileFinder, Missing
from data_prep.sources.parquet_columns import DOWNLOADS, Choice, Columns, chosen, leaf_of
from data_prep.sources.scan import looked_through, scan
from data_prep.tables.labels import Numbering, class_number, flip_notes, is_no_label, number_labels
from data_prep.tables.parquet_files import CellReader, ParquetFile, parquet_file
from data_prep.tables.table import clean
from umt_ds.data.pixels.picture import image_size
from umt_ds.data.shards.records import sample_key
from umt_ds.data.shards.suffixes import VIDEO_SUFFIXES
from umt_ds.errors import DataError, quoted, some
from umt_ds.terminal import progress

_LOOKED_AT = 8  # rows, to see whether they have pictures or videos
# Which split a file belongs to, by a word of its name or of a folder's: as `datasets` tells them apart
# (huggingface.co/docs/hub/datasets-file-names-and-splits).
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_CANONICAL = {word: split for split, words in _SPLITS.items() for word in words}
_OF_SHARD = re.compile(r"(?P<split>\w+(?:\.\w+)*)-\d{5,}-of-\d{5,}.*\.parquet")  # train-00000-of-00012.parquet


def list_parquet(
    folder: Path, *, split: str | None = None, choice: Choice | None = None, classes: Path | None = None
) -> Listing:
    """A clip of each row of the parquet files below `folder`, or of those of one split.

    The rows of a row group stay together, so that it is read once; the groups are in an order of hashes.
    Raises DataError where the files cannot be read, differ in their columns, or not one row has a picture or video;
    ConfigError where it is open which split or column is meant.
    """
    read: _Reading | None = None
    for file in progress(_files_of(folder, split), unit="file", desc="list"):
        with parquet_file(folder / file) as opened:
            if not opened.starts[-1]:
                continue  # its columns may have no types
            if read is None:
                read = _Reading(folder, chosen(opened, choice or Choice()), first=opened.path)
            _check_columns(opened, read.columns, read.first)
            read.add_all_of(opened, file)
    if read is None:
        raise DataError(f"the parquet files below {folder} have no rows")
    return read.listing(split, classes)


# ---------------------------------------------------------------- files


def _files_of(folder: Path, split: str | None) -> list[str]:
    """The parquet files of a split, as paths below the folder. Raises DataError where there is none, or it is open
    which split is meant."""
    there = (f"{below.folder}/{name}".strip("/") for below in looked_through(folder) for name in below.files)
    found = [file for file in there if not any(part.startswith(".") for part in file.split("/"))]
    files = sorted(file for file in found if file.lower().endswith(".parquet"))
    if not files:
        raise _no_parquet(folder, found)
    splits = {file: _split_of(file) for file in files}
    counts = Counter(split or "none by their names" for split in splits.values())
    told = some(f"{name} ({count:,} files)" for name, count in sorted(counts.items()))
    if split is None:
        if len(counts) > 1:
            raise DataError(f"{folder} has several splits: {told}", hint="choose one with --split")
        return files
    of_split = [file for file in files if splits[file] == _CANONICAL.get(split, split)]
    if not of_split:
        raise DataError(f"{folder} has no split {split!r}: {told}", hint="name one of them, or leave --split out")
    return of_split


def _split_of(file: str) -> str | None:
    """Which split a file is of, by its name, or else by its folders."""
    parts = file.split("/")[::-1]
    if named := _OF_SHARD.fullmatch(parts[0]):
        return _CANONICAL.get(named["split"], named["split"])
    words = (word for part in parts for word in re.split(r"[^a-z]+", part.lower()))
    return next((_CANONICAL[word] for word in words if word in _CANONICAL), None)


def _no_parquet(folder: Path, found: Sequence[str]) -> DataError:
    suffixes = Counter(Path(name).suffix.lower() or "no suffix" for name in found)
    seen = some((f"{suffix} {count:,}" for suffix, count in suffixes.most_common()), 8)
    hints = {
        ".arrow": "Arrow files of `save_to_disk`: write them again by `load_from_disk(...).to_parquet(...)`",
        ".tar": "tars: `umt-data index`",
    }
    hint = next(
        (hint for suffix, hint in hints.items() if suffix in suffixes), "pictures and videos: `umt-data folder`"
    )
    return DataError(f"no parquet files below {folder} ({f'only {seen}' if seen else 'it is empty'})", hint=hint)


def _check_columns(opened: ParquetFile, columns: Columns, first: Path) -> None:
    """Raises DataError where a file lacks one of the chosen columns of the first one."""
    there = {column.name: column for column in opened.columns}
    for wanted in columns.used:
        found = there.get(wanted.name)
        if found is None or found.kind != wanted.kind or found.names != wanted.names:
            has = "none" if found is None else str(found)
            raise DataError(
                f"{first} has the column {wanted}, and {opened.path} {has}: they are not of one data set",
                hint="give the folder of one configuration, or --split",
            )


# ---------------------------------------------------------------- rows


@dataclass(frozen=True, slots=True)  # slots: there may be millions
class _Row:
    key: str
    source: str
    captions: tuple[str, ...]
    label: str  # as tables have it: a number, or a name
    group: str  # the row group, which stays together


@dataclass
class _Reading:
    """What the rows of the files say, file after file."""

    folder: Path
    columns: Columns  # as `first`, the first file with rows, has them
    first: Path
    rows: list[_Row] = field(default_factory=list)
    left_out: list[Refusal] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)  # cell → where it stands first
    files: FileFinder | None = None  # below the folder, where a row has no bytes
    kind: Literal["image", "video"] | None = None

    @property
    def _media(self) -> Literal["image", "video"]:
        """What the rows show: videos, where not one of the first is a picture."""
        return self.kind or "video"

    def add_all_of(self, opened: ParquetFile, file: str) -> None:
        """The rows of one file."""
        for group, numbers in enumerate(opened.groups):
            told = opened.rows(group, self.columns.leaves) if self.columns.leaves else [{} for _ in numbers]
            media = self.columns.media
            has_bytes = opened.has_bytes(group, media) if media.has_bytes else [False] * len(numbers)
            for number, row, is_here in zip(numbers, told, has_bytes, strict=True):
                self._add(file, number, row, is_here=is_here, group=f"{file} {group}")

    def _add(self, file: str, number: int, row: Mapping[str, Any], *, is_here: bool, group: str) -> None:
        cell = Cell(file, self.columns.media.name, number)
        source = str(cell) if is_here else self._file_of(leaf_of(row, self.columns.path_leaf))
        if isinstance(source, Missing):
            self.left_out.append(Refusal(str(cell), source.reason))
            return
        if self.kind is None and len(self.rows) < _LOOKED_AT:
            self.kind = self._kind_of(cell if is_here else source)
        label = "" if self.columns.label is None else self._label_of(row[self.columns.label.name])
        if label:
            self.labels.setdefault(label, f"{file} row {number}")
        captions = () if self.columns.caption is None else tuple(_texts(row[self.columns.caption.name]))
        self.rows.append(_Row(self._key_of(cell, row), source, captions, label, group))

    def _file_of(self, path: object) -> str | Missing:
        """The file below the folder that a row without bytes has the path of."""
        if not isinstance(path, str) or not path.strip():
            return Missing("neither bytes nor a path")
        if "://" in path:
            return Missing("an address instead of bytes: nothing is downloaded here")
        if self.files is None:
            try:
                found = scan(self.folder, "video", "image")
            except DataError:
                return Missing("no bytes, and its file is missing")
            self.files = FileFinder(found, self.folder, what="file", missing="no bytes, and its file is missing")
        return self.files.file_of(path)

    def _kind_of(self, place: Cell | str) -> Literal["image", "video"] | None:
        """What a row shows, by what `datasets` calls its column, or else by its file or bytes; None where these are no
        picture: it may be a damaged one."""
        feature = self.columns.media.feature.lower()
        if feature in ("image", "video"):
            return "image" if feature == "image" else "video"
        if isinstance(place, str):
            return "video" if place.rpartition(".")[2].lower() in VIDEO_SUFFIXES else "image"
        reader = CellReader(self.folder)
        try:
            image_size(reader.read(*place) or b"")
        except DataError:
            return None
        finally:
            reader.close()
        return "image"

    def _label_of(self, value: object) -> str:
        """As tables have labels: the name of a class of the file, a number, a text, or nothing."""
        assert self.columns.label is not None
        names = self.columns.label.names
        if value is None or (names and value == -1):
            return ""
        if names and isinstance(value, int):
            if not 0 <= value < len(names):
                raise DataError(
                    f"label {value} of {self.columns.label} is beyond its {len(names)} classes",
                    hint="another column has the labels (--label), or the file is damaged",
                )
            return str(value)
        return clean(str(value))

    def _key_of(self, cell: Cell, row: Mapping[str, Any]) -> str:
        if self.columns.key is None:
            return f"{sample_key(cell.file)}/{cell.row:06d}"
        value = leaf_of(row, self.columns.key_leaf)
        if value is None or not str(value).strip():
            raise DataError(f"{self.folder / cell.file} row {cell.row} has nothing in {self.columns.key_leaf}",
                            hint="a key names one sample: choose another --key, or none")  # fmt: skip
        text = re.sub("/{2,}", "/", clean(str(value)))  # as tar reads it
        return sample_key(text if self.columns.key_leaf.endswith("path") else f"{text}.x")

    def listing(self, split: str | None, classes: Path | None) -> Listing:
        """All of it. Raises DataError where no row has a picture or video, or two have one key."""
        if not self.rows:
            raise _nothing_there(self.columns, self.left_out)
        self._check_keys()
        numbering = self._numbering(classes)
        ordered = sorted(self.rows, key=_dealt)
        clips = tuple(
            Clip(row.key, row.source, row.captions, numbering.label(row.label), numbering.label_name(row.label))
            for row in ordered
        )
        return Listing(
            root=self.folder,
            clips=clips,
            media=self._media,
            left_out=tuple(self.left_out),
            labels=numbering.names,
            about={"source": "parquet", **({"split": split} if split else {})},
            notes=(*self._notes(), *numbering.notes, *flip_notes(numbering.names)),
            is_dealt=True,
        )

    def _check_keys(self) -> None:
        if self.columns.key is None:
            return
        counts = Counter(row.key for row in self.rows)
        twice = [key for key, count in counts.items() if count > 1]
        if twice:
            where = some([row.source for row in self.rows if row.key == twice[0]], 2, each=100)
            raise DataError(
                f"--key {self.columns.key_leaf}: {len(twice):,} of its values stand in several rows; "
                f"{quoted(twice[0])} in {where}",
                hint="a key names one sample: choose another column, or leave --key out",
            )

    def _numbering(self, classes: Path | None) -> Numbering:
        names = self.columns.label.names if self.columns.label else ()
        if not names:
            return number_labels(self.labels, classes=classes)
        numbers = {cell: class_number(cell, where) for cell, where in self.labels.items()}
        if classes is None:
            return Numbering(names, numbers)
        by_name = {names[number]: self.labels[cell] for cell, number in numbers.items() if number is not None}
        given = number_labels(by_name, classes=classes)
        return Numbering(given.names, {cell: given.meant[names[n]] for cell, n in numbers.items() if n is not None})

    def _notes(self) -> Iterator[str]:
        media, caption, label = self.columns.media, self.columns.caption, self.columns.label
        yield f"{len(self.rows):,} {self._media}s in the column {media.name}"
        with_caption = sum(bool(row.captions) for row in self.rows)
        with_label = sum(not is_no_label(row.label) for row in self.rows)
        yield (f"{with_caption:,} have a caption ({caption.name})" if caption else "no captions (--caption COLUMN)")
        yield f"{with_label:,} have a label ({label.name})" if label else "no labels (--label COLUMN)"
        if self.columns.unused:
            yield f"not used: {some(self.columns.unused, 12)}"
        if self.left_out:
            reasons = Counter(refusal.reason for refusal in self.left_out).most_common()
            yield f"{len(self.left_out):,} rows left out: {some(f'{count:,} {reason}' for reason, count in reasons)}"


def _nothing_there(columns: Columns, left_out: Sequence[Refusal]) -> DataError:
    what = f"not one of {len(left_out):,} rows has a file: {columns.media.name} of the first has {left_out[0].reason}"
    if left_out[0].reason.startswith("an address"):
        return DataError(what, hint=DOWNLOADS)
    return DataError(what, hint="paths are below the folder that is given; --media chooses another column")


def _dealt(row: _Row) -> bytes:
    """The order of the row groups; `sorted` keeps that of the rows in each."""
    return hashlib.sha256(row.group.encode()).digest()


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        if text := clean(value):
            yield text
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
