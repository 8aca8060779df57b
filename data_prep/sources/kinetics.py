"""Kinetics-400, -600 and -700 by their official csv files."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.clip import Clip, Listing, Refusal
from data_prep.labels import Numbering, number_labels
from data_prep.sources.folder import no_file_of, scan_videos
from data_prep.tables import NUMBER, Table
from umt_ds.errors import DataError, quoted

# Eleven characters, underscores among them. An id becomes part of keys and names: nothing else may pass.
YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_CUT_CLIP = re.compile(rf"(?P<id>{YOUTUBE_ID.pattern})_(?P<start>\d+)_(?P<end>\d+)")
LONGEST_S = 1_000_000  # keys have six digits
_REPLACEMENTS = "replacement"  # how the folder begins that CVDF's files for damaged ones are unpacked to

Place = tuple[str, int, int]  # YouTube id, start and end in whole seconds, as file names say them
Files = dict[Place | str, str]  # the path below a folder, by place or by file name without suffix


def list_kinetics(videos: Path, *, csv: Path, classes: Path | None = None) -> Listing:
    """The rows of an official csv (label,youtube_id,time_start,time_end,split[,is_cc]) and their files.

    Files lie anywhere below `videos`, as ID_000417_000427.mp4 (the cut clip) or ID.mp4 (the clip, or the
    whole video, of which the row's span is then taken); one in a folder `replacement…` goes before others.
    The key is ID_000417_000427 wherever the file lies. Rows without a file are left out and reported.
    Raises DataError where the csv is malformed or not one row has a file.
    """
    read = read_kinetics(csv)
    found = scan_videos(videos)
    files = files_by_name(found.videos)
    numbering = number_labels(read.labels, classes=classes)
    clips, left_out = _match(read.rows, files, numbering)
    if not clips:
        raise no_file_of(csv, len(read.rows), videos, looked_for=read.rows[0].file_names)
    named = len({clip.source for clip in clips})
    replaced = sum(_is_replacement(clip.source) for clip in clips)
    told = [f"took {replaced} videos from the folder of replacements"] if replaced else []
    return Listing(
        root=videos,
        clips=tuple(clips),
        left_out=(*read.unusable, *left_out),
        labels=numbering.names,
        about={"source": "kinetics"},
        notes=(
            *found.notes,
            *read.notes,
            *numbering.notes,
            *found.unnamed(named),
            *copies_note(found.videos, files),
            *told,
        ),
    )


@dataclass(frozen=True, slots=True)  # slots: a csv has up to 650,000 rows
class KineticsRow:
    """A row of an official csv: seconds `start` to `end` of a YouTube video."""

    line: int
    youtube_id: str
    start: float  # int, where it is a whole second
    end: float
    label: str  # empty in test lists
    split: str  # train, val or test; empty where the csv does not say

    @property
    def place(self) -> Place:
        return self.youtube_id, int(self.start), int(self.end)

    @property
    def name(self) -> str:
        """What the clip is called everywhere, in whole seconds: a file name without suffix, and a sample key."""
        return "{}_{:06d}_{:06d}".format(*self.place)

    @property
    def file_names(self) -> str:
        """What is looked for, for people."""
        return f"{self.name}.mp4 or {self.youtube_id}.mp4"


@dataclass(frozen=True)
class KineticsTable:
    """What an official csv says: its rows, and those that name no clip of a YouTube video; where each label stands."""

    csv: Path
    rows: list[KineticsRow]
    unusable: list[Refusal]
    labels: dict[str, str]
    notes: tuple[str, ...]


def read_kinetics(csv: Path) -> KineticsTable:
    """An official csv, of any set and year.

    Raises DataError where columns are missing, times are no numbers, or no row is usable.
    """
    table = Table(csv, columns=("youtube_id", "time_start", "time_end"), optional=("label", "split"))
    read = KineticsTable(csv, [], [], {}, ())
    for line, cells in table:
        row = _parse(cells, csv, line)
        if problem := _problem(row):
            read.unusable.append(Refusal(f"{csv.name} line {line}", problem))
        else:
            read.rows.append(row)
            read.labels.setdefault(row.label, f"{csv} line {line}")
    if not read.rows:
        first = next(iter(read.unusable), None)
        why = f"no usable row; {first.source}: {first.reason}" if first else "no rows"
        raise DataError(f"{csv} has {why}", hint="a header line and one line a clip are expected")
    return replace(read, notes=(*table.notes, *_splits_note(read.rows)))


def _splits_note(rows: Sequence[KineticsRow]) -> Iterator[str]:
    splits = Counter(row.split for row in rows)
    if len(splits) > 1:
        parts = ", ".join(f"{split or 'none'} {count:,}" for split, count in splits.items())
        yield f"rows of several splits become one set ({parts})"


def _parse(cells: Sequence[str], csv: Path, line: int) -> KineticsRow:
    youtube_id, start, end, label, split = cells
    split = "val" if split == "validate" else split
    # interned: one text for a class, and not one for each of its rows
    return KineticsRow(
        line, youtube_id, _seconds(start, csv, line), _seconds(end, csv, line), sys.intern(label), sys.intern(split)
    )


def _seconds(cell: str, csv: Path, line: int) -> float:
    seconds = float(cell) if NUMBER.fullmatch(cell) else math.inf
    if abs(seconds) >= LONGEST_S:
        raise DataError(
            f"{csv} line {line}: time_start and time_end must be seconds ({quoted(cell)})", hint="such as 12 or 12.5"
        )
    return int(seconds) if seconds.is_integer() else seconds


def _problem(row: KineticsRow) -> str | None:
    if not YOUTUBE_ID.fullmatch(row.youtube_id):
        return f"{quoted(row.youtube_id)} is no YouTube id (11 letters, digits, - and _)"
    if not 0 <= row.start < row.end:
        return f"{row.start:g} to {row.end:g} s is no part of a video"
    return None


def files_by_name(videos: Iterable[str]) -> Files:
    """Files by place where their names say one, else by name; replacements first, then the first in sorted order."""
    files: Files = {}
    for video in sorted(videos, key=lambda video: (not _is_replacement(video), video)):
        stem = video.rpartition("/")[2].rpartition(".")[0]
        cut = _CUT_CLIP.fullmatch(stem)
        files.setdefault((cut["id"], int(cut["start"]), int(cut["end"])) if cut else stem, video)
    return files


def copies_note(videos: Sequence[str], files: Files) -> Iterator[str]:
    """What `files_by_name` did not choose."""
    if copies := len(videos) - len(files):
        yield f"{copies} videos have the name of another one: a replacement was taken, else the first in sorted order"


def _is_replacement(video: str) -> bool:
    return any(folder.startswith(_REPLACEMENTS) for folder in video.split("/")[:-1])


def file_of(row: KineticsRow, files: Files) -> tuple[str, tuple[float, float] | None] | None:
    """The file of a row, and the span to take of it unless it is the cut clip by its name; None if there is none."""
    cut, named = files.get(row.place), files.get(row.youtube_id)
    if named and (not cut or (_is_replacement(named) and not _is_replacement(cut))):
        return named, (row.start, row.end)
    return (cut, None) if cut else None


def _match(rows: Sequence[KineticsRow], files: Files, numbering: Numbering) -> tuple[list[Clip], list[Refusal]]:
    clips: list[Clip] = []
    left_out: list[Refusal] = []
    first_rows: dict[Place, KineticsRow] = {}
    for row in rows:
        first = first_rows.setdefault(row.place, row)
        if first is not row:
            left_out.append(Refusal(row.name, _repeated(row, first)))
        elif file := file_of(row, files):
            clips.append(_clip(row, *file, numbering))
        else:
            left_out.append(Refusal(row.name, f"missing: no file for line {row.line}"))
    return clips, left_out


def _repeated(row: KineticsRow, first: KineticsRow) -> str:
    """Why the row of a clip that an earlier row has too is left out, and where the two differ."""
    differences = []
    if (row.start, row.end) != (first.start, first.end):
        differences.append(f"{row.start:g}-{row.end:g} s and not {first.start:g}-{first.end:g} s, which have one key")
    if row.label != first.label:
        differences.append(f"as {row.label!r} and not {first.label!r}")
    return ", ".join([f"repeated: line {row.line} repeats {first.line}", *differences])


def _clip(row: KineticsRow, source: str, span_s: tuple[float, float] | None, numbering: Numbering) -> Clip:
    return Clip(
        key=row.name,
        source=source,
        label=numbering.label(row.label),
        label_name=numbering.label_name(row.label),
        span_s=span_s,
        extra={"youtube_id": row.youtube_id, "time_start": row.start, "time_end": row.end, "split": row.split},
    )
