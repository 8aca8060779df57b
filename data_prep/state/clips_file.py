"""The clips of a plan on disk, in the order of the shards, of which each is read without the others; and refusals.

OUT/.umt-data/clips.jsonl        [key, source, captions, label, label_name, span_s, extra], then is_of_whole and
                                 first_s, without those at the end that say nothing
OUT/.umt-data/clips.starts.npy   [num_shards + 1] where the clips of each shard begin, in bytes
OUT/bad.csv, and left_out.csv    file, key, reason
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_prep.clip import Clip, Listing, Refusal
from umt_ds.data.shards.fetch import read_part, read_whole, size_of
from umt_ds.errors import DataError

if TYPE_CHECKING:
    from hashlib import _Hash

# As np.save begins it; numpy's own reader raises SyntaxError, TokenError and MemoryError on other bytes
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<i8', 'fortran_order': False, 'shape': \((\d{1,18}),\), \} *\n", re.S
)
CLIPS_FILES = _CLIPS, _STARTS = "clips.jsonl", "clips.starts.npy"


def write_clips(folder: Path, listing: Listing, per_shard: int) -> _Hash:
    """Write both files into `folder`; the sha256 of the first, to go on with."""
    content = hashlib.sha256()
    starts = [0]
    with (folder / _CLIPS).open("wb") as file:
        for number, clip in enumerate(listing.clips, start=1):
            line = _line_of(clip)
            content.update(line)
            file.write(line)
            if number % per_shard == 0 or number == len(listing.clips):
                starts.append(file.tell())
    np.save(folder / _STARTS, np.array(starts, dtype=np.int64))
    return content


class PlannedClips:
    """The clips of the plan in the folder `state`, of which it says how many there are."""

    def __init__(self, state: Path, num_clips: int, per_shard: int) -> None:
        self._state, self._num_clips, self._per_shard = state, num_clips, per_shard

    def of_shard(self, shard: int) -> tuple[Clip, ...]:
        """Raises DataError where the files are damaged."""
        start, end = int(self._starts[shard]), int(self._starts[shard + 1])
        try:
            data = read_part(self._state / _CLIPS, start, end - start)
            clips = tuple(_clip_of(line) for line in data.splitlines())
            if len(data) != end - start or len(clips) != self._num_clips_of(shard):
                raise ValueError(
                    f"the plan has {self._num_clips_of(shard)} clips in shard {shard}, here are {len(clips)}"
                )
        except (ValueError, TypeError, RecursionError, FileNotFoundError) as error:
            raise _damaged(self._state / _CLIPS, error) from error
        return clips

    def _num_clips_of(self, shard: int) -> int:
        return min(self._per_shard, self._num_clips - shard * self._per_shard)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """[num_shards + 1]"""
        path = self._state / _STARTS
        num_starts = -(-self._num_clips // self._per_shard) + 1
        try:
            data = read_whole(path)
            header = _HEADER.match(data)
            if header is None or int(header[1]) != num_starts or len(data) - header.end() != 8 * num_starts:
                raise ValueError("it does not say of each shard where it begins")
            starts = np.frombuffer(data, dtype="<i8", offset=header.end())
            size = size_of(self._state / _CLIPS)
            if starts[0] != 0 or (np.diff(starts) < 1).any() or starts[-1] != size:
                raise ValueError(f"its shards do not follow each other to the end of {_CLIPS}, at byte {size}")
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
