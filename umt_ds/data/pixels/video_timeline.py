"""When the frames of a video are shown, and which of them belong to given seconds. Plain numbers, no video library.

Seconds count as a player counts them: from the start of the file, that is of the stream that starts first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from umt_ds.errors import DecodeError

Span = tuple[float, float]  # start and end in seconds; what is shown at the end belongs to the next span

# A frame this near to the start of a span belongs to it: what adding up floating point numbers is off by.
_SAME_TIME_S = 1e-6
# Several recordings in one file have more frames than this each.
_FRAMES_OF_A_RECORDING = 10
# A last frame that stays so much longer than the others is part of the show, and no slip of the writer.
_HELD_S = 0.5


@dataclass(frozen=True)
class Timeline:
    """The times of a video's frames. N frames."""

    seconds: Sequence[float]  # N times in the order shown; frame n is shown from seconds[n] until the next one
    end_s: float  # when the last frame ends
    # frames a second, where it is constant; 0: no time is known, frames can only be counted; None: it varies
    rate: float | None
    stated: float = 0.0  # frames a second, as the stream says it; 0: it does not

    @property
    def count(self) -> int:
        return len(self.seconds)

    @property
    def duration_s(self) -> float:
        """From the first frame up to the end of the last one."""
        return self.end_s - self.seconds[0]

    @property
    def whole(self) -> Span:
        return self.seconds[0], self.end_s

    def clipped(self, span_s: Span) -> Span:
        """What is there of a span. Raises DecodeError where that is nothing."""
        start, end = max(span_s[0], self.seconds[0]), min(span_s[1], self.end_s)
        if self.rate == 0:
            raise DecodeError("says nothing about the times of its frames, which seconds of it need")
        if span_s[0] >= self.end_s:
            raise DecodeError(f"lasts {self.end_s:.1f} s and has no frame at {span_s[0]:g} s")
        if start >= end:
            raise DecodeError(f"shows its first frame at {start:.1f} s and none at {span_s[0]:g}-{span_s[1]:g} s")
        return start, end

    def within(self, span_s: Span | None = None) -> range:
        """The numbers of the frames that begin in a span (None: of all); where none does, the one shown then."""
        if span_s is None:
            return range(self.count)
        start, end = self.clipped(span_s)
        first, last = self._first_from(start), self._first_from(end)
        return range(first, last) if first < last else range(first - 1, first)

    def first(self, wanted_s: float) -> Span | None:
        """The first seconds, as a reader takes them that counts frames: int(seconds · frames a second) of them. None
        where there are no more.

        Source: METHOD.md, "The first seconds of a video". Raises DecodeError where no frame rate is known.
        """
        if self.count == 1:
            return None
        fps = float(self.mean_rate(Fraction(self.stated) if self.stated else None, at_most=None))
        count = max(1, int(min(wanted_s * fps, self.count)))
        if count >= self.count:
            return None
        end_s = self.seconds[0] + count / self.rate if self.rate else self.seconds[count]
        return self.seconds[0], end_s

    def _first_from(self, time_s: float) -> int:
        """The number of the first frame that begins at `time_s` or later; `count` where none does."""
        if self.rate:
            return min(math.ceil((time_s - _SAME_TIME_S - self.seconds[0]) * self.rate), self.count)
        return int(np.searchsorted(self.seconds, time_s - _SAME_TIME_S))

    def at_middles(self, parts: int, span_s: Span | None = None) -> list[int]:
        """The frames of a span shown at the middle of one of its `parts` equal parts of time, each once."""
        start, end = self.clipped(span_s or self.whole)
        here = self.within(span_s)
        # frame n is shown from edges[n] to edges[n + 1]
        edges = np.array([start, *self.seconds[here.start + 1 : here.stop], end])
        middles_before = np.ceil((edges - start) * parts / (end - start) - 0.5)
        return [here.start + int(n) for n in np.flatnonzero(np.diff(middles_before))]

    def nearest(self, times_s: NDArray[np.float64]) -> list[int]:
        """The numbers of the frames that begin nearest to these times."""
        times = np.asarray(self.seconds)
        return [int(number) for number in np.searchsorted((times[1:] + times[:-1]) / 2, times_s)]

    def mean_rate(self, stated: Fraction | None, *, at_most: float | None) -> Fraction:
        """Frames per second: as the stream states it, if that is about what its frames show."""
        seen = Fraction(self.count / self.duration_s) if self.duration_s else None
        rate = stated if stated and (seen is None or 0.9 < stated / seen < 1.1) else seen
        if rate is None:
            raise DecodeError("states neither its frame rate nor the times of its frames")
        rate = rate if at_most is None else min(rate, Fraction(at_most))
        return max(rate.limit_denominator(1001), Fraction(1, 1001))


def timeline(
    times: Sequence[float | None],
    *,
    fps: float,
    tick_s: float,
    last_s: float = 0.0,
    begin_s: float = 0.0,
    longest_s: float = math.inf,
) -> Timeline:
    """From times of any origin, of frames in the order shown, to a Timeline that begins at `begin_s`.

    `fps` is the rate that the stream states (0: none), `tick_s` what the container rounds times to, `last_s` how
    long the last frame is shown (0: unknown). Where times step back, or forth by more than `longest_s`, another
    recording begins. Where they are missing or in disorder, or all are one, they become those of a constant rate.
    """
    known = [time for time in times if time is not None]
    step = 1 / fps if fps else 0.0
    seconds = joined(known, step_s=step, longest_s=longest_s) if len(known) == len(times) else None
    if seconds is None or (len(known) > 1 and known[0] == known[-1]):
        seconds = [number * step for number in range(len(times))]
    rate = None if last_s > step + _HELD_S else constant_rate(seconds, stated=fps, tick_s=tick_s)
    if rate:
        last_s = 1 / rate
    elif not last_s:
        last_s = step or (seconds[-1] / (len(seconds) - 1) if len(seconds) > 1 else 0.0)
    return Timeline([begin_s + second for second in seconds], begin_s + seconds[-1] + last_s, rate, fps)


def joined(times: Sequence[float], *, step_s: float, longest_s: float = math.inf) -> list[float] | None:
    """Seconds from the first of some times; a recording that counts anew follows the one before as its frames do.

    None where that would be too many recordings: the times are in disorder.
    """
    seconds, shift, joins = [0.0], -times[0], 0
    for earlier, time in pairwise(times):
        if not 0 <= time - earlier <= longest_s:
            shift = seconds[-1] + (seconds[-1] - seconds[-2] if len(seconds) > 1 else step_s) - time
            joins += 1
        seconds.append(time + shift)
    return seconds if joins * _FRAMES_OF_A_RECORDING <= len(times) else None


def constant_rate(seconds: Sequence[float], *, stated: float, tick_s: float) -> float | None:
    """Frames a second, where times (the first is 0) are those of a constant rate, rounded; 0 if all are 0; else None.

    Matroska and others round to milliseconds, and keep doing so in files that were copied from them. The bound by the
    frame's own length keeps one lost frame from passing for rounding where a tick is as long as a frame.
    """
    if not seconds[-1]:
        return stated if len(seconds) == 1 else 0.0
    numbers, times = np.arange(len(seconds)), np.asarray(seconds)
    for rate in (stated, (len(seconds) - 1) / seconds[-1]):
        if rate and np.abs(times - numbers / rate).max() <= min(1.01 * max(tick_s, 1e-3), 0.3 / rate):
            return rate
    return None
