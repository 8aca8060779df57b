"""Seconds of a video as stored frames: the part of a sample between two of them, and the frame at one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.protocols.protocol import Protocol
from umt_ds.data.clips import read_record
from umt_ds.data.shards.records import SampleRef
from umt_ds.data.shards.source import ShardSource
from umt_ds.errors import DecodeError, shown

_START, _END = ("start", "time_start"), ("end", "time_end")
SECONDS = (*_START, *_END)  # fields of a row that say where in its file an item lies
# A cut file may be longer than its seconds by this: cuts fall on key frames
_LONGER_S = 5.0
_BESIDE_S = 1.0  # what begins so shortly behind the last frame is that frame
_NEAR_S = 0.5  # a frame shows the second that it is so near to


@dataclass(frozen=True)
class StoredPart:
    """The first and last stored frame of an item. moment: in detection, the fields that say where its second lies.
    is_cut: the file begins after the seconds of the row, or ends before them."""

    frames: tuple[int, int]
    moment: Mapping[str, Any] = field(default_factory=dict)
    is_cut: bool = False


class StoredSeconds:
    """When the stored frames of samples are. Those of the last sample are kept: rows of a video follow one another, and
    the record of 15 minutes takes milliseconds to read. protocol: where the rows are those of one.
    """

    def __init__(self, source: ShardSource, *, protocol: Protocol | None = None) -> None:
        self._source = source
        self._cut_s = protocol.cut_s if protocol else None
        self._has_moments = protocol is not None and protocol.task == "detection"
        self._last: tuple[SampleRef, NDArray[np.float64]] | None = None

    def part(self, ref: SampleRef, row: Mapping[str, Any]) -> StoredPart | None:
        """What lies between `start` and `end` of a row, in seconds; the nearest frame where none does. None: the row
        says no seconds.

        Raises DecodeError where the sample does not say when its frames are, or has none there.
        """
        start, end = (
            next((row[name] for name in names if row.get(name) is not None), None) for names in (_START, _END)
        )
        if start is None and end is None:
            return None
        times = self._times(ref)
        first, last = _seconds(start, 0.0), _seconds(end, math.inf)
        if self._has_moments:
            return _around(times, row["second"], first, last)
        if first > last or first > times[-1] + _BESIDE_S or last < times[0] - max(_BESIDE_S, _widest_step(times)):
            raise DecodeError(f"no stored frame lies between {first:g} and {last:g} s")
        return StoredPart(_between(times, first, last) or (nearest := _nearest(times, first), nearest))

    def stored_s(self, ref: SampleRef) -> float:
        """How many seconds of a video a sample holds; 0 where it does not say."""
        stored_s = read_record(self._source, ref).get("duration_s")
        return float(stored_s) if isinstance(stored_s, (int, float)) else 0.0

    def _times(self, ref: SampleRef) -> NDArray[np.float64]:
        """Of the stored frames of a sample, in seconds of the whole video."""
        if self._last is None or self._last[0] != ref:
            self._last = ref, self._read(ref)
        return self._last[1]

    def _read(self, ref: SampleRef) -> NDArray[np.float64]:
        said = read_record(self._source, ref).get("times_s")
        try:
            times = np.array(said if isinstance(said, list) else [], np.float64)
        except (TypeError, ValueError):
            times = np.empty(0)
        if times.ndim != 1 or not len(times):
            raise DecodeError("the sample does not say when its frames are (times_s): make the set with umt-data")
        return times if self._cut_s is None else times + _cut_off(times, *self._cut_s)


def _cut_off(times: NDArray[np.float64], start: float, end: float) -> float:
    """The seconds that a file lacks before its first: none of a whole video. Raises DecodeError where it may be either:
    its frames would be those of other seconds."""
    if times[-1] <= end - start + _LONGER_S:
        return start
    if times[0] > _LONGER_S or times[-1] >= end - _LONGER_S:
        return 0.0
    raise DecodeError(
        f"its file ends at {times[-1]:.0f} s: it is neither the whole video, of more than {end:.0f} s, nor its seconds "
        f"{start:.0f} to {end:.0f} alone"
    )


def _widest_step(times: NDArray[np.float64]) -> float:
    """The longest time from a stored frame to the next: so far before the first one nothing is stored. Of a frame
    alone nobody knows."""
    return float(np.diff(times).max()) if len(times) > 1 else math.inf


def _between(times: NDArray[np.float64], first: float, last: float) -> tuple[int, int] | None:
    inside = np.flatnonzero((first <= times) & (times <= last))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def _nearest(times: NDArray[np.float64], second: float) -> int:
    return int(np.abs(times - second).argmin())


def _around(times: NDArray[np.float64], second: float, first: float, last: float) -> StoredPart:
    """The frames around a second. Raises DecodeError where none is near it."""
    key_frame = _nearest(times, second)
    if abs(times[key_frame] - second) > _NEAR_S:
        if times[0] < second < times[-1]:
            raise DecodeError(f"its {len(times):,} frames are stored too far apart: make the set with --fps")
        raise DecodeError(f"this second is not in its file, which has {times[0]:.1f} to {times[-1]:.1f} s")
    start, end = _between(times, first, last) or (key_frame, key_frame)
    lasts = float(times[end] - times[start])
    moment = {"key_frame": key_frame - start, "stored_fps": round((end - start) / lasts, 3) if lasts else None}
    is_cut = bool(times[0] > first + _NEAR_S or times[-1] < last - _NEAR_S)
    return StoredPart((start, end), moment, is_cut)


def _seconds(value: Any, default: float) -> float:
    try:
        second = default if value is None else float(value)
    except (TypeError, ValueError):
        second = math.nan
    if math.isnan(second):
        raise DecodeError(f"{shown(repr(value))} is no number of seconds")
    return second
