"""The clips of a plan on disk, in the order of the shards, of which each is read without the others; and refusals.

OUT/.umt-data/clips.jsonl        [key, source, captions, label, label_name, span_s, extra], then is_of_whole and
                                 first_s, without those at the end that say nothing
OUT/.umt-data/clips.starts.npy   [num_shards + 1] where the clips of each shard begin, in bytes
OUT/.umt-data/clips-1.jsonl, …   the same of the clips that were added, which are in shards of their own
OUT/bad.csv, and left_out.csv    file, key, reason
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.clip import Clip, Refusal
from umt_ds.data.shards.fetch import read_part, read_whole, size_of
from umt_ds.errors import DataError

# As np.save begins it; numpy's own reader raises SyntaxError, TokenError and MemoryError on other bytes
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<i8', 'fortran_order': False, 'shape': \((\d{1,18}),\), \} *\n", re.S
)
_AT_ONCE = 65_536  # clips, where all are read: some MB


def clips_files(batch: int) -> tuple[str, str]:
    """The names of the two files of a batch: 0 is what a set was begun with, 1 what was added first."""
    name = f"clips-{batch}" if batch else "clips"
    return f"{name}.jsonl", f"{name}.starts.npy"


def write_clips(folder: Path, clips: Sequence[Clip], per_shard: int, *, batch: int = 0) -> None:
    """Write both files of a batch into `folder`."""
    lines, places = clips_files(batch)
    starts = [0]
    with (folder / lines).open("wb") as file:
        for number, clip in enumerate(clips, start=1):
            file.write(_line_of(clip))
            if number % per_shard == 0 or number == len(clips):
                starts.append(file.tell())
    np.save(folder / places, np.array(starts, dtype=np.int64))


@dataclass(frozen=True)
class Partition:
    """How clips are dealt to shards: `per_shard` to each, in their order; each of the `batches` begins a shard."""

    batches: tuple[int, ...]  # clips
    per_shard: int

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """The shard behind the last one of each batch."""
        return tuple(accumulate(-(-clips // self.per_shard) for clips in self.batches))

    def place(self, shard: int) -> tuple[int, int]:
        """The batch of a shard, and its number there."""
        batch = bisect_right(self.ends, shard)
        return batch, shard - (self.ends[batch - 1] if batch else 0)

    def num_clips_of(self, shard: int) -> int:
        """How many clips one shard has; the last of a batch can have fewer."""
        batch, number = self.place(shard)
        return min(self.per_shard, self.batches[batch] - number * self.per_shard)


class PlannedClips:
    """The clips of the plan in the folder `state`, of which it says how they are dealt to shards."""

    def __init__(self, state: Path, partition: Partition) -> None:
        self._state, self._partition = state, partition
        self._starts: dict[int, NDArray[np.int64]] = {}  # of each batch that was asked for

    def of_shard(self, shard: int) -> tuple[Clip, ...]:
        """Raises DataError where the files are damaged."""
        batch, number = self._partition.place(shard)
        return self._read(batch, number, number + 1)

    def __iter__(self) -> Iterator[Clip]:
        """All of them. Raises DataError where the files are damaged."""
        for batch, clips in enumerate(self._partition.batches):
            shards, at_once = -(-clips // self._partition.per_shard), max(1, _AT_ONCE // self._partition.per_shard)
            for first in range(0, shards, at_once):
                yield from self._read(batch, first, min(first + at_once, shards))

    def _read(self, batch: int, first: int, end: int) -> tuple[Clip, ...]:
        """The clips of the shards [first, end) of a batch."""
        if batch not in self._starts:
            self._starts[batch] = self._read_starts(batch)
        start, stop = int(self._starts[batch][first]), int(self._starts[batch][end])
        path, per_shard = self._state / clips_files(batch)[0], self._partition.per_shard
        planned = min(end * per_shard, self._partition.batches[batch]) - first * per_shard
        try:
            data = read_part(path, start, stop - start)
            clips = tuple(_clip_of(line) for line in data.splitlines())
            if len(data) != stop - start or len(clips) != planned:
                raise ValueError(f"the plan has {planned} clips in shard {first} of it, here are {len(clips)}")
        except (ValueError, TypeError, RecursionError, FileNotFoundError) as error:
            raise _damaged(path, error) from error
        return clips

    def _read_starts(self, batch: int) -> NDArray[np.int64]:
        """[shards of the batch + 1]"""
        lines, places = clips_files(batch)
        path = self._state / places
        num_starts = -(-self._partition.batches[batch] // self._partition.per_shard) + 1
        try:
            data = read_whole(path)
            header = _HEADER.match(data)
            if header is None or int(header[1]) != num_starts or len(data) - header.end() != 8 * num_starts:
                raise ValueError("it does not say of each shard where it begins")
            starts = np.frombuffer(data, dtype="<i8", offset=header.end())
            size = size_of(self._state / lines)
            if starts[0] != 0 or (np.diff(starts) < 1).any() or starts[-1] != size:
                raise ValueError(f"its shards do not follow each other to the end of {lines}, at byte {size}")
        except (ValueError, OSError) as error:
            raise _damaged(path, error) from error
        return starts


def _line_of(clip: Clip) -> bytes:
    fields: list[Any] = [
        *(clip.key, clip.source, clip.captions, clip.label, clip.label_name),
        *(clip.span_s, dict(clip.extra) if clip.extra else None),
    ]
    least = len(fields)
    fields += [clip.is_of_whole, clip.first_s]
    while not fields[-1] and len(fields) > least:  # most clips keep the line that earlier versions wrote
        fields.pop()
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _clip_of(line: bytes) -> Clip:
    key, source, captions, label, label_name, span_s, extra, *more = json.loads(line)
    is_of_whole, first_s = more[0] if more else False, more[1] if len(more) > 1 else None
    if len(more) > 2:
        raise ValueError("a clip has more fields than it can have")
    span = tuple(span_s) if span_s else None
    clip = Clip(key, source, tuple(captions), label, label_name, span, extra or {}, is_of_whole, first_s)
    _check_types(clip)
    return clip


def _check_types(clip: Clip) -> None:
    """Raises ValueError: JSON has them as its writer pleased."""
    texts: list[Any] = [clip.key, clip.source, *clip.captions, clip.label_name or ""]
    if not all(isinstance(text, str) for text in texts) or not (clip.label is None or type(clip.label) is int):
        raise ValueError("a text or the label of a clip is none")
    span_s: list[Any] = list(clip.span_s or (0, 0))
    if len(span_s) != 2 or not all(type(number) in (int, float) and math.isfinite(number) for number in span_s):
        raise ValueError("the span of a clip is none")
    if type(clip.is_of_whole) is not bool or not _is_seconds(clip.first_s):
        raise ValueError("the part of a clip is none")
    if not isinstance(clip.extra, dict):
        raise ValueError("the further fields of a clip are none")


def _is_seconds(first_s: Any) -> bool:
    return first_s is None or (type(first_s) in (int, float) and 0 < first_s < math.inf)


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} is damaged: {error}", hint="restore it from a copy, or begin the set again in another folder"
    )


def csv_of_refusals(refusals: Iterable[Refusal]) -> bytes:
    """file,key,reason, sorted by file."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["file", "key", "reason"])
    rows.writerows(sorted((refusal.source, refusal.key, refusal.reason) for refusal in refusals))
    return text.getvalue().encode(errors="backslashreplace")


def read_refusals(data: bytes) -> list[Refusal]:
    """What `csv_of_refusals` wrote. Raises ValueError or csv.Error for anything else."""
    rows = list(csv.reader(io.StringIO(data.decode())))
    return [Refusal(source, reason, key) for source, key, reason in rows[1:]]
