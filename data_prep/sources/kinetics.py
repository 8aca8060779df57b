"""Kinetics-400, -600 and -700 by their official csv files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data_prep.clip import Clip, Listing, Refusal
from data_prep.sources.scan import no_file_of, scan_videos
from data_prep.tables.kinetics import YOUTUBE_ID, KineticsRow, Place, read_kinetics
from data_prep.tables.labels import Numbering, number_labels

_CUT_CLIP = re.compile(rf"(?P<id>{YOUTUBE_ID.pattern})_(?P<start>\d+)_(?P<end>\d+)")
_REPLACEMENTS = "replacement"  # how the folder begins that CVDF's files for damaged ones are unpacked to

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
