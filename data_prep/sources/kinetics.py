"""Kinetics-400, -600 and -700 by their official csv files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.clip import Clip, Listing, Refusal
from data_prep.labels import Labels, Row, class_list, read_table
from data_prep.sources.folder import scan_videos
from umt_ds.data.records import sample_key
from umt_ds.errors import DataError

# A YouTube id has eleven characters, underscores among them.
_CUT_CLIP = re.compile(r"(?P<id>.{11})_(?P<start>\d+)_(?P<end>\d+)$")

Span = tuple[str, int, int]  # id, start and end in seconds


def list_kinetics(videos: Path, *, csv: Path, classes: Path | None = None) -> Listing:
    """The rows of an official csv (label,youtube_id,time_start,time_end,split[,is_cc]) and their files.

    Files lie anywhere below `videos`, as ID_000417_000427.mp4 (the cut clip) or ID.mp4 (the clip, or the
    whole video, of which the row's span is then taken). Rows without a file are left out and reported.
    Raises DataError where the csv is malformed or not one row has a file.
    """
    rows = [_parse(row, csv, line) for line, row in enumerate(_read(csv), start=2)]
    found = scan_videos(videos)
    files = _by_name(found.videos)
    names = class_list((row.label for row in rows if row.label), classes)
    clips, left_out = _match(rows, files, names)
    if not clips:
        raise DataError(
            f"none of the {len(rows)} rows of {csv} has a file below {videos}",
            hint=f"files are looked for by name, such as {_file_name(rows[0].span)}.mp4 or {rows[0].span[0]}.mp4",
        )
    unused = len(found.videos) - len({clip.source for clip in clips})
    unnamed = (f"ignored {unused} videos that no row names",) if unused else ()
    return Listing(
        root=videos,
        clips=tuple(clips),
        left_out=tuple(left_out),
        labels=names.names,
        about={"source": "kinetics"},
        notes=(*found.notes, *unnamed),
    )


@dataclass(frozen=True)
class _Row:
    line: int
    span: Span
    label: str  # empty in test lists
    split: str


def _read(csv: Path) -> list[Row]:
    rows = read_table(csv, needed=("youtube_id", "time_start", "time_end"))
    if not rows:
        raise DataError(f"{csv} has no rows", hint="a header line and one line a clip are expected")
    return rows


def _parse(row: Row, csv: Path, line: int) -> _Row:
    try:
        span = (row["youtube_id"], int(float(row["time_start"])), int(float(row["time_end"])))
    except ValueError as error:
        raise DataError(f"{csv} line {line}: time_start and time_end must be seconds ({error})") from error
    split = row.get("split", "")
    return _Row(line, span, row.get("label", ""), "val" if split == "validate" else split)


def _by_name(videos: Sequence[str]) -> dict[Span | str, str]:
    """Files by (id, start, end) where their names say so, else by their name; the first in sorted order."""
    files: dict[Span | str, str] = {}
    for video in videos:
        stem = video.rpartition("/")[2].rpartition(".")[0]
        cut = _CUT_CLIP.fullmatch(stem)
        files.setdefault((cut["id"], int(cut["start"]), int(cut["end"])) if cut else stem, video)
    return files


def _match(rows: Sequence[_Row], files: dict[Span | str, str], labels: Labels) -> tuple[list[Clip], list[Refusal]]:
    clips: list[Clip] = []
    left_out: list[Refusal] = []
    lines: dict[Span, list[int]] = defaultdict(list)
    for row in rows:
        lines[row.span].append(row.line)
        cut, whole = files.get(row.span), files.get(row.span[0])
        if len(lines[row.span]) > 1:
            left_out.append(Refusal(_file_name(row.span), f"repeated: line {row.line} repeats {lines[row.span][0]}"))
        elif cut:
            clips.append(_clip(row, cut, sample_key(cut), labels))
        elif whole:
            _, start, end = row.span
            key = f"{sample_key(whole)}_{start:06d}_{end:06d}"
            clips.append(_clip(row, whole, key, labels, span_s=(start, end)))
        else:
            left_out.append(Refusal(_file_name(row.span), f"missing: no file for line {row.line}"))
    return clips, left_out


def _clip(row: _Row, source: str, key: str, labels: Labels, span_s: tuple[float, float] | None = None) -> Clip:
    youtube_id, start, end = row.span
    return Clip(
        key=key,
        source=source,
        label=labels.number(row.label) if row.label else None,
        label_name=row.label or None,
        span_s=span_s,
        extra={"youtube_id": youtube_id, "time_start": start, "time_end": end, "split": row.split},
    )


def _file_name(span: Span) -> str:
    return f"{span[0]}_{span[1]:06d}_{span[2]:06d}"
