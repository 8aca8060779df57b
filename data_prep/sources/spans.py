"""Spans of videos as clips: a csv with a row for each, as `umt-data scenes` writes it.

    file,start,end[,caption][,label]
    films/a.mp4,12.5,20.083,a man runs,

A video of hours becomes many clips without a second file on disk.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from data_prep.clip import Clip, Listing, Refusal
from data_prep.sources.names import FileFinder, Missing
from data_prep.sources.scan import FoundFiles, Keys, about_keys, no_file_of, scan
from data_prep.tables.labels import Numbering, is_no_label, is_same_label, number_labels, two_labels
from data_prep.tables.table import NUMBER, Table
from umt_ds.errors import DataError, quoted

SPAN_COLUMNS = ("file", "start", "end")
_LONGEST_S = 10**7  # of a video: four months


def list_spans(videos: Path, *, spans: Path, classes: Path | None = None, keys: Keys = "stem") -> Listing:
    """A clip for each span that a csv names of the videos below `videos`; its key ends in start and end, in ms.

    Rows of one span are joined: each can add a caption. Rows without a file are left out and reported.
    Raises DataError where a row has no span, two rows give a span two labels, or not one row has a file.
    """
    found = scan(videos, "video", keys=keys)
    table = Table(spans, columns=SPAN_COLUMNS, optional=("caption", "label"))
    said = _read(table, FileFinder(found, videos))
    if not said.of:
        gone = said.missing[0] if said.missing else Refusal("", "")
        raise no_file_of(spans, len(said.missing), videos, looked_for=gone.source, why=gone.reason)
    numbering = number_labels(said.labels, classes=classes)
    files = {place.file for place in said.of}
    return Listing(
        root=videos,
        clips=tuple(_clip(found, place, notes, numbering) for place, notes in said.of.items()),
        left_out=(*found.unusable, *said.missing),
        labels=numbering.names,
        about={"source": "spans", **about_keys(keys)},
        notes=(
            *found.notes,
            *table.notes,
            *numbering.notes,
            *found.unnamed(len(files)),
            f"{len(said.of):,} spans of {len(files):,} videos",
        ),
    )


class _Place(NamedTuple):
    file: str
    start: float  # seconds
    end: float


@dataclass(slots=True)  # slots: there may be millions
class _Notes:
    """What the rows say of one span."""

    captions: list[str] = field(default_factory=list)
    label: str = ""
    label_line: int = 0


@dataclass
class _Said:
    of: dict[_Place, _Notes] = field(default_factory=lambda: defaultdict(_Notes))
    missing: list[Refusal] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)  # where each stands first


def _read(table: Table, names: FileFinder) -> _Said:
    said = _Said()
    disagree: list[str] = []
    for line, (file, start, end, caption, label) in table:
        place = _place(file, start, end, where=f"{table.path} line {line}")
        path = names.file_of(file)
        if isinstance(path, Missing):
            said.missing.append(Refusal(file, f"{path.reason} (line {line})"))
            continue
        notes = said.of[place._replace(file=path)]
        if caption and caption not in notes.captions:
            notes.captions.append(caption)
        if is_no_label(label):
            continue
        said.labels.setdefault(label, f"{table.path.name} line {line}")
        if not notes.label:
            notes.label, notes.label_line = label, line
        elif not is_same_label(notes.label, label):
            both = f"{quoted(notes.label)} and {quoted(label)}"
            disagree.append(f"{path} {start}-{end} s has two labels, {both}: in line {notes.label_line} and {line}")
    if disagree:
        raise two_labels(disagree)
    return said


def _place(file: str, start: str, end: str, *, where: str) -> _Place:
    place = _Place(file, _seconds(start, where), _seconds(end, where))
    if place.start >= place.end:
        raise DataError(f"{where}: a span from {start} to {end} s holds nothing", hint="start lies before end")
    return place


def _clip(found: FoundFiles, place: _Place, notes: _Notes, labels: Numbering) -> Clip:
    return Clip(
        key=f"{found.key(place.file)}_{round(place.start * 1000):08d}_{round(place.end * 1000):08d}",
        source=place.file,
        captions=tuple(notes.captions),
        label=labels.label(notes.label),
        label_name=labels.label_name(notes.label),
        span_s=(place.start, place.end),
        extra={"time_start": place.start, "time_end": place.end},
        is_of_whole=True,
    )


def _seconds(cell: str, where: str) -> float:
    seconds = float(cell) if NUMBER.fullmatch(cell) else math.nan
    if not 0 <= seconds < _LONGEST_S:
        raise DataError(
            f"{where}: {quoted(cell)} is no time", hint="start and end are seconds from the start of the file, as 12.5"
        )
    return seconds
