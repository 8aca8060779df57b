"""Lists of `path<split>label` or `path<split>number of frames<split>label`, as UMT, VideoMAE and MMAction read."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.clip import Clip, Listing, Refusal
from data_prep.sources.names import FileFinder, Missing
from data_prep.sources.scan import Keys, about_keys, no_file_of, scan
from data_prep.tables.class_list import read_class_list
from data_prep.tables.labels import class_number, flip_notes, names_of_numbers, two_labels
from data_prep.tables.table import text_lines, whole_number
from umt_ds.errors import DataError, quoted

Split = Literal["comma", "space", "tab"]
SPLITS: Mapping[Split, str] = {"tab": "\t", "comma": ",", "space": " "}  # guessed in this order
_K710_ORDER = "the published K400 lists number the classes in K710 order (abseiling is 341)"


def list_path_label(
    videos: Path, *, rows: Path, split: Split | None = None, classes: Path | None = None, keys: Keys = "stem"
) -> Listing:
    """The rows of a list without header, and their files: videos, or folders of frames, below `videos`.

    A path may lack the suffix or have another one, and may lack its leading folders. Fields are taken from the
    right: paths may contain blanks. `classes` gives names to the numbers; it never changes them.
    Raises DataError where a row cannot be read, a number is beyond `classes`, two rows give a file two labels, or not
    one row has a file.
    """
    form = _form_of(rows, split)
    found = scan(videos, "video", "frames", keys=keys)
    files = FileFinder(found, videos, missing="missing: no file for it")
    parsed = [_parse(rows, number, line, form) for number, (line,) in text_lines(rows)]
    names = read_class_list(classes) if classes else names_of_numbers(row.label for row in parsed)
    clips: dict[str, Clip] = {}
    lines: dict[str, int] = {}
    left_out: list[Refusal] = []
    disagree: list[str] = []
    for row in parsed:
        if row.label is not None and row.label >= len(names):
            raise _beyond(row, rows, names)
        path = files.file_of(row.path)
        if isinstance(path, Missing):
            left_out.append(Refusal(row.path, f"{path.reason} (line {row.line})"))
        elif path not in clips:
            lines[path] = row.line
            clips[path] = _clip(found.key(path), path, row.label, names)
        elif row.label is not None and clips[path].label not in (None, row.label):
            first = f"line {lines[path]} label {clips[path].label}"
            disagree.append(f"{rows.name} line {row.line} gives {path} label {row.label}, {first}")
        else:
            left_out.append(Refusal(row.path, f"repeated: line {row.line} names the file of line {lines[path]}"))
            if clips[path].label is None:
                clips[path] = _clip(clips[path].key, path, row.label, names)
    if disagree:
        raise two_labels(disagree)
    if not clips:
        gone = left_out[0] if left_out else Refusal("", "")
        raise no_file_of(rows, len(parsed), videos, looked_for=gone.source, why=gone.reason)
    return Listing(
        root=videos,
        clips=tuple(clips.values()),
        left_out=(*found.unusable, *left_out),
        labels=names,
        about={"source": "list", **about_keys(keys)},
        notes=(
            *found.notes,
            *found.unnamed(len(clips)),
            *((f"the numbers of frames in {rows.name} are not used",) if form.has_frames else ()),
            *_doubts(clips.values(), names, is_named=classes is not None),
            *flip_notes(names),
        ),
    )


@dataclass(frozen=True)
class _Form:
    """How the lines of one list are to be read."""

    split: str
    has_frames: bool


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    path: str
    label: int | None


def _form_of(rows: Path, split: Split | None) -> _Form:
    """The first split by which every line ends in a number; with frames, if every line has another one before it."""
    has_frames = {split: True} if split else dict.fromkeys(SPLITS, True)
    for number, (line,) in text_lines(rows):
        for name in list(has_frames):
            fields = [field.strip() for field in line.rsplit(SPLITS[name], 2)]
            if len(fields) < 2 or not fields[0] or whole_number(fields[-1]) is None:
                del has_frames[name]
            elif len(fields) == 2 or whole_number(fields[1]) is None:
                has_frames[name] = False
        if not has_frames:
            raise DataError(
                f"{rows} line {number} does not end in a label: {quoted(line)}",
                hint="a line is path,label or path,number of frames,label, with a comma, blank or tab between them "
                "and the label a whole number; --split says which; there is no header line",
            )
    name, with_frames = next(iter(has_frames.items()))
    return _Form(SPLITS[name], with_frames)


def _parse(rows: Path, number: int, line: str, form: _Form) -> _Row:
    fields = line.rsplit(form.split, 2 if form.has_frames else 1)
    return _Row(number, fields[0].strip(), class_number(fields[-1].strip(), f"{rows} line {number}"))


def _beyond(row: _Row, rows: Path, names: Sequence[str]) -> DataError:
    return DataError(
        f"{rows} line {row.line}: label {row.label} is beyond the {len(names)} classes given",
        hint="classes are numbered from 0" if row.label == len(names) else "give the list's own classes",
    )


def _clip(key: str, source: str, label: int | None, names: Sequence[str]) -> Clip:
    return Clip(key, source, label=label, label_name=None if label is None else names[label])


def _doubts(clips: Iterable[Clip], names: Sequence[str], *, is_named: bool) -> Iterator[str]:
    """Where the numbers of the list disagree with the names of the classes, or of the folders that files lie in."""
    first: dict[tuple[str, int], Clip] = {}  # one clip for each folder and label
    for clip in clips:
        if clip.label is not None:
            first.setdefault((_folder_of(clip), clip.label), clip)
    labels = {label for _, label in first}
    numbers = {_plain(name): number for number, name in enumerate(names)} if is_named else _in_order(first)
    wrong = [clip for (folder, label), clip in first.items() if numbers.get(folder, label) != label]
    if wrong:
        whose = "in the classes given" if is_named else "if the folders are counted in alphabetical order"
        yield (
            f"the list numbers {len(wrong)} classes otherwise than their folders are named: {wrong[0].source} has "
            f"label {wrong[0].label}, but its folder is class {numbers[_folder_of(wrong[0])]} {whose}; {_K710_ORDER}"
        )
    elif labels and min(labels) == 1 and len(labels) > 1:
        yield "no clip has label 0, some have 1: does the list count from 1?"
    elif max(labels, default=0) == 399 and not numbers:
        yield f"400 classes without names: {_K710_ORDER}; --classes gives them names"


def _folder_of(clip: Clip) -> str:
    return _plain(clip.source.rpartition("/")[0].rpartition("/")[2])


def _in_order(seen: Mapping[tuple[str, int], Clip]) -> dict[str, int]:
    """Folders as classes in alphabetical order, if each folder has one label and each label one folder."""
    labels: dict[str, set[int]] = defaultdict(set)
    for folder, label in seen:
        labels[folder].add(label)
    ordered = sorted(labels)
    used = sorted({label for _, label in seen})
    is_one_to_one = len(labels) == len(used) == len(seen) > 1
    return dict(zip(ordered, used, strict=True)) if is_one_to_one else {}


def _plain(name: str) -> str:
    """A name as it compares: `ApplyEyeMakeup`, `apply_eye_makeup` and `apply eye makeup` are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
