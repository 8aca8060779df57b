"""Which frames of a clip a draw shows: pure functions of the number of stored frames and a key.

A shard stores N frames spread evenly over the clip (32 by default), so "frame" means stored frame here:
eight segments of 32 leave four candidates each, and a dense stride counts stored frames. Which frames of the source a
published score is of: `views.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, assert_never

import numpy as np

from umt_ds.errors import ConfigError, DecodeError
from umt_ds.keyed import Stream

Sampling = Literal["sparse", "dense", "intervals", "kinetics_sparse", "middle"]


@dataclass(frozen=True)
class FramePolicy:
    """How many frames, and which. `stride` (in stored frames) matters to dense sampling only."""

    kind: Sampling
    count: int
    stride: int = 1

    def __post_init__(self) -> None:
        if self.count < 1 or self.stride < 1:
            raise ConfigError(f"{self.count} frames at a stride of {self.stride}: both must be at least 1")

    def choose(self, num_frames: int, stream: Stream) -> list[int]:
        """`count` frame numbers in 0 … num_frames-1, ascending. Raises DecodeError for an empty clip."""
        if num_frames < 1:
            raise DecodeError("the clip holds no frames")
        match self.kind:
            case "sparse":
                return sparse(num_frames, count=self.count, stream=stream)
            case "dense":
                return dense(num_frames, count=self.count, stride=self.stride, stream=stream)
            case "intervals":
                return intervals(num_frames, count=self.count, stream=stream)
            case "kinetics_sparse":
                return kinetics_sparse_training(num_frames, count=self.count, stream=stream)
            case "middle":
                return middle(num_frames, count=self.count)
            case _:
                assert_never(self.kind)


def sparse(num_frames: int, *, count: int, stream: Stream) -> list[int]:
    """One random frame from each of `count` equal segments; a clip shorter than that shows frame 0 only.

    Source: METHOD.md, "Frames: stage 1". (Its "sorted random" branch cannot be reached with one frame per segment:
    segments are empty exactly when frames are too few.)
    """
    segment = num_frames // count
    if segment == 0:
        return [0] * count
    return [i * segment + stream.integer(segment) for i in range(count)]


def dense(num_frames: int, *, count: int, stride: int, stream: Stream) -> list[int]:
    """`count` frames `stride` apart from a random start; at the end the last legal one is repeated.

    The start is random where the whole span count·stride fits, else 0. As published, no step reaches the very last
    frame: of 300, eight from 292 on end in …, 298, 298. Source: METHOD.md, "Frames: stage 1".
    """
    start = stream.integer(max(num_frames - count * stride, 0) + 1)
    last = start + max(num_frames - 2 - start, 0) // stride * stride
    return [min(start + i * stride, last) for i in range(count)]


def intervals(num_frames: int, *, count: int, stream: Stream) -> list[int]:
    """One random frame from each of `count` intervals, never the last of an interval.

    Where an interval has but one frame: different frames, sorted; a clip shorter than that shows every frame, then
    repeats its last. Source: METHOD.md, "Frames: stage 2".
    """
    known = min(count, num_frames)
    edges = np.linspace(0, num_frames, known + 1).astype(int).tolist()
    if all(end - start > 1 for start, end in pairwise(edges)):
        frames = [start + stream.integer(end - 1 - start) for start, end in pairwise(edges)]
    else:
        frames = stream.distinct(num_frames, known)
    return frames + [num_frames - 1] * (count - known)


def kinetics_sparse_training(num_frames: int, *, count: int, stream: Stream) -> list[int]:
    """One random frame from each of `count` segments, which share their borders: both ends count.

    The segments end at round(s·i), s = (num_frames - 1) / count, with Python's round, half to even. (What validation
    and testing show: `views.kinetics_sparse`.) Source: METHOD.md, "Frames: recognition".
    """
    segment = (num_frames - 1) / count
    edges = [round(segment * i) for i in range(count + 1)]
    return [start + stream.integer(end - start + 1) for start, end in pairwise(edges)]


def middle(num_frames: int, *, count: int) -> list[int]:
    """The centre of each of `count` segments; a shorter clip shows every frame, then repeats its last.

    Source: METHOD.md, "Frames: stage 2" (300 frames, 4 → 37, 112, 187, 262).
    """
    edges = np.linspace(0, num_frames, min(count, num_frames) + 1).astype(int).tolist()
    centres = [(start + end - 1) // 2 for start, end in pairwise(edges)]
    return centres + [num_frames - 1] * (count - len(centres))
