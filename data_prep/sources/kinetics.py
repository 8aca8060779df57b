"""Kinetics-400, -600 and -700 by their official csv files."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.clip import Clip, Listing, Refusal
from data_prep.labels import Labels, class_list, rows_of
from data_prep.sources.folder import no_file_of, scan_videos
from umt_ds.errors import DataError

# Eleven characters, underscores among them. An id becomes part of keys and names: nothing else may pass.
YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_CUT_CLIP = re.compile(rf"(?P<id>{YOUTUBE_ID.pattern})_(?P<start>\d+)_(?P<end>\d+)")
_REPLACEMENTS = "replacement"  # how the folder begins that CVDF's files for damaged ones are unpacked to

Place = tuple[str, int, int]  # YouTube id, start and end in seconds
Files = dict[Place | str, str]  # the path below a folder, by place or by file name without suffix


def list_kinetics(videos: Path, *, csv: Path, classes: Path | None = None) -> Listing:
    """The rows of an official csv (label,youtube_id,time_start,time_end,split[,is_cc]) and their files.

    Files lie anywhere below `videos`, as ID_000417_000427.mp4 (the cut clip) or ID.mp4 (the clip, or the
    whole video, of which the row's span is then taken); one in a folder `replacement…` goes before others.
    The key is ID_000417_000427 wherever the file lies. Rows without a file are left out and reported.
    Raises DataError where the csv is malformed or not one row has a file.
    """
    rows, unusable = read_kinetics(csv)
    found = scan_videos(videos)
    files = files_by_name(found.videos)
    names = class_list((row.label for row in rows if row.label), classes)
    clips, left_out = _match(rows, files, names)
    if not clips:
        raise no_file_of(csv, len(rows), videos, looked_for=rows[0].file_names)
    named = len({clip.source for clip in clips})
    replaced = sum(_is_replacement(clip.source) for clip in clips)
    told = (f"took {replaced} videos from the folder of replacements",) if replaced else ()
    return Listing(
        root=videos,
        clips=tuple(clips),
        left_out=(*unusable, *left_out),
        labels=names.names,
        about={"source": "kinetics"},
        notes=(*found.notes, *found.unnamed(named), *told),
    )


@dataclass(frozen=True, slots=True)  # slots: a csv has up to 650,000 rows
class KineticsRow:
    """A row of an official csv: seconds `start` to `end` of a YouTube video."""

    line: int
    youtube_id: str
    start: int
    end: int
    label: str  # empty in test lists
    split: str  # train, val or test; empty where the csv does not say

    @property
    def place(self) -> Place:
        return self.youtube_id, self.start, self.end

    @property
    def name(self) -> str:
        """What the clip is called everywhere: a file name without suffix, and a sample key."""
        return f"{self.youtube_id}_{self.start:06d}_{self.end:06d}"

    @property
    def file_names(self) -> str:
        """What is looked for, for people."""
        return f"{self.name}.mp4 or {self.youtube_id}.mp4"


def read_kinetics(csv: Path) -> tuple[list[KineticsRow], list[Refusal]]:
    """The rows of an official csv, of any set and year, and those that name no clip of a YouTube video.

    Raises DataError where columns are missing, times are no numbers, or no row is usable.
    """
    rows: list[KineticsRow] = []
    unusable: list[Refusal] = []
    fields = rows_of(csv, columns=("youtube_id", "time_start", "time_end"), optional=("label", "split"))
    for line, texts in enumerate(fields, start=2):
        row = _parse(texts, csv, line)
        problem = _problem(row)
        if problem:
            unusable.append(Refusal(f"{csv.name} line {line}", problem))
        else:
            rows.append(row)
    if not rows:
        why = f"no usable row; {unusable[0].source}: {unusable[0].reason}" if unusable else "no rows"
        raise DataError(f"{csv} has {why}", hint="a header line and one line a clip are expected")
    return rows, unusable


def _parse(texts: Sequence[str], csv: Path, line: int) -> KineticsRow:
    youtube_id, start, end, label, split = texts
    try:
        start_s, end_s = int(float(start)), int(float(end))
    except (ValueError, OverflowError) as error:
        raise DataError(f"{csv} line {line}: time_start and time_end must be seconds ({error})") from error
    split = "val" if split == "validate" else split
    # interned: one text for a class, and not one for each of its rows
    return KineticsRow(line, youtube_id, start_s, end_s, sys.intern(label), sys.intern(split))


def _problem(row: KineticsRow) -> str | None:
    if not YOUTUBE_ID.fullmatch(row.youtube_id):
        return f"{row.youtube_id[:80]!r} is no YouTube id (11 letters, digits, - and _)"
    if not 0 <= row.start < row.end:
        return f"{row.start} to {row.end} s is no part of a video"
    return None


def files_by_name(videos: Iterable[str]) -> Files:
    """Files by place where their names say one, else by name; replacements first, then the first in sorted order."""
    files: Files = {}
    for video in sorted(videos, key=lambda video: (not _is_replacement(video), video)):
        stem = video.rpartition("/")[2].rpartition(".")[0]
        cut = _CUT_CLIP.fullmatch(stem)
        files.setdefault((cut["id"], int(cut["start"]), int(cut["end"])) if cut else stem, video)
    return files


def _is_replacement(video: str) -> bool:
    return any(folder.startswith(_REPLACEMENTS) for folder in video.split("/")[:-1])


def file_of(row: KineticsRow, files: Files) -> tuple[str, tuple[float, float] | None] | None:
    """The file of a row, and the span to take of it unless it is the cut clip by its name; None if there is none."""
    cut, named = files.get(row.place), files.get(row.youtube_id)
    if named and (not cut or (_is_replacement(named) and not _is_replacement(cut))):
        return named, (row.start, row.end)
    return (cut, None) if cut else None


def _match(rows: Sequence[KineticsRow], files: Files, labels: Labels) -> tuple[list[Clip], list[Refusal]]:
    clips: list[Clip] = []
    left_out: list[Refusal] = []
    first_lines: dict[Place, int] = {}
    for row in rows:
        first = first_lines.setdefault(row.place, row.line)
        if first != row.line:
            left_out.append(Refusal(row.name, f"repeated: line {row.line} repeats {first}"))
        elif file := file_of(row, files):
            clips.append(_clip(row, *file, labels))
        else:
            left_out.append(Refusal(row.name, f"missing: no file for line {row.line}"))
    return clips, left_out


def _clip(row: KineticsRow, source: str, span_s: tuple[float, float] | None, labels: Labels) -> Clip:
    return Clip(
        key=row.name,
        source=source,
        label=labels.number(row.label) if row.label else None,
        label_name=row.label or None,
        span_s=span_s,
        extra={"youtube_id": row.youtube_id, "time_start": row.start, "time_end": row.end, "split": row.split},
    )
