"""Lists of `path<split>label` or `path<split>number of frames<split>label`, as UMT, VideoMAE and MMAction read."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.clip import Clip, Listing, Refusal
from data_prep.labels import Labels, class_list, flip_notes
from data_prep.sources.folder import no_file_of, scan
from umt_ds.errors import DataError

Split = Literal["comma", "space", "tab"]
SPLITS: Mapping[Split, str] = {"tab": "\t", "comma": ",", "space": " "}  # guessed in this order
_LABEL = re.compile(r"-?\d{1,9}")  # -1 in lists of videos without labels
_K710_ORDER = "the published K400 lists number the classes in K710 order (abseiling is 341)"


def list_path_label(videos: Path, *, rows: Path, split: Split | None = None, classes: Path | None = None) -> Listing:
    """The rows of a list without header, and their files: videos, or folders of frames, below `videos`.

    A path may lack the suffix or have another one, and may lack its leading folders. Fields are taken from the
    right: paths may contain blanks. `classes` gives names to the numbers; it never changes them.
    Raises DataError where a row cannot be read, a number is beyond `classes`, or not one row has a file.
    """
    form = _form_of(rows, split)
    found = scan(videos, "video", "frames")
    parsed = [_parse(line, number, form) for number, line in _lines(rows)]
    names = class_list((str(row.label) for row in parsed if row.label >= 0), classes)
    clips: dict[str, Clip] = {}
    lines: dict[str, int] = {}
    left_out: list[Refusal] = []
    for row in parsed:
        if row.label >= len(names.names):
            raise _beyond(row, rows, names)
        paths = found.find(row.path)
        if len(paths) != 1:
            reason = f"{len(paths)} videos have this name" if paths else "missing: no file for it"
            left_out.append(Refusal(row.path, f"{reason} (line {row.line})"))
        elif paths[0] in clips:
            left_out.append(Refusal(row.path, f"repeated: line {row.line} names the file of line {lines[paths[0]]}"))
        else:
            lines[paths[0]] = row.line
            clips[paths[0]] = _clip(found.key(paths[0]), paths[0], row.label, names)
    if not clips:
        raise no_file_of(rows, len(parsed), videos, looked_for=parsed[0].path if parsed else "")
    return Listing(
        root=videos,
        clips=tuple(clips.values()),
        left_out=(*found.unusable, *left_out),
        labels=names.names,
        about={"source": "list"},
        notes=(
            *found.notes,
            *found.unnamed(len(clips)),
            *_doubts(clips.values(), names, is_named=classes is not None),
            *flip_notes(names.names),
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
    label: int


def _lines(rows: Path) -> Iterator[tuple[int, str]]:
    try:
        with rows.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{rows} cannot be read as UTF-8 text: {error}") from error


def _form_of(rows: Path, split: Split | None) -> _Form:
    """The first split by which every line ends in a number; with frames, if every line has another one before it."""
    has_frames = {split: True} if split else dict.fromkeys(SPLITS, True)
    for number, line in _lines(rows):
        for name in list(has_frames):
            fields = [field.strip() for field in line.rsplit(SPLITS[name], 2)]
            if len(fields) < 2 or not fields[0] or not _LABEL.fullmatch(fields[-1]):
                del has_frames[name]
            elif len(fields) == 2 or not fields[1].isdecimal():
                has_frames[name] = False
        if not has_frames:
            raise DataError(
                f"{rows} line {number} does not end in a label: {line[:80]!r}",
                hint="a line is path,label or path,number of frames,label, with a comma, blank or tab between them "
                "and the label a whole number; --split says which",
            )
    name, with_frames = next(iter(has_frames.items()))
    return _Form(SPLITS[name], with_frames)


def _parse(line: str, number: int, form: _Form) -> _Row:
    fields = line.rsplit(form.split, 2 if form.has_frames else 1)
    return _Row(number, fields[0].strip(), int(fields[-1]))


def _beyond(row: _Row, rows: Path, names: Labels) -> DataError:
    return DataError(
        f"{rows} line {row.line}: label {row.label} is beyond the {len(names.names)} classes given",
        hint="classes are numbered from 0" if row.label == len(names.names) else "give the list's own classes",
    )


def _clip(key: str, source: str, label: int, names: Labels) -> Clip:
    if label < 0:
        return Clip(key, source)
    return Clip(key, source, label=label, label_name=names.names[label])


def _doubts(clips: Iterable[Clip], names: Labels, *, is_named: bool) -> Iterator[str]:
    """Where the numbers of the list disagree with the names of the classes, or of the folders that files lie in."""
    first: dict[tuple[str, int], Clip] = {}  # one clip for each folder and label
    for clip in clips:
        if clip.label is not None:
            first.setdefault((_folder_of(clip), clip.label), clip)
    labels = {label for _, label in first}
    numbers = {_plain(name): number for number, name in enumerate(names.names)} if is_named else _in_order(first)
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
