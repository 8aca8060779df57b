"""The official csv files of Kinetics-400, -600 and -700 as rows."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.clip import Refusal
from data_prep.tables.table import NUMBER, Table
from umt_ds.errors import DataError, quoted

# Eleven characters, underscores among them. An id becomes part of keys and names: nothing else may pass.
YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
LONGEST_S = 1_000_000  # keys have six digits

Place = tuple[str, int, int]  # YouTube id, start and end in whole seconds, as file names say them


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
