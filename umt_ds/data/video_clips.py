"""Clips of a video file as a model sees them: of the whole video, or of windows of seconds that cover it.

T frames, V views of a clip, H x W pixels, W windows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from umt_ds.data.clip_request import ClipRequest, ShownFrames
from umt_ds.data.pixels.video import LIMITS, Limits, Pixels, Span, Timeline, encode_by_time
from umt_ds.errors import DataError, DecodeError

_SAME_TIME_S = 1e-6  # what adding up floating point numbers is off by


@dataclass(frozen=True)
class Windows:
    """Seconds of a video that are looked at one by one: from 0, from `stride_s`, …, each `length_s` long."""

    length_s: float
    stride_s: float

    def spans(self, timeline: Timeline) -> list[Span]:
        """In the order of their starts. The last one ends with the video, so that all are as long; a video that is
        shorter is one window. (25 s by windows of 10 s each 10 s: 0-10, 10-20, 15-25.)"""
        begin_s, end_s = timeline.whole
        last_s = max(begin_s, end_s - self.length_s)  # where the last window starts
        steps = ceil((last_s - begin_s - _SAME_TIME_S) / self.stride_s)
        starts = [*(begin_s + step * self.stride_s for step in range(steps)), last_s]
        return [(start, min(start + self.length_s, end_s)) for start in starts]


@dataclass(frozen=True)
class VideoClip:
    """What a model is shown of a video. span_s: the seconds that it stands for. views: u8 [V,T,side,side,3]."""

    span_s: Span
    views: Tensor


@dataclass(frozen=True)
class VideoClips:
    """Some of the clips of a video, in their order. of: how many the video has. too_short: what is said of the windows
    among these that hold fewer frames than the model sees; they are no clips."""

    clips: tuple[VideoClip, ...]
    of: int
    too_short: tuple[str, ...] = ()


def clip_of_video(
    file: Path | bytes, request: ClipRequest, *, span_s: Span | None = None, limits: Limits = LIMITS
) -> VideoClip:
    """The whole video as one clip, or some seconds of it. Raises as `clips_of_video`, and DecodeError for seconds that
    hold fewer frames than the model sees."""
    found = _clips(file, request.frames, request.views_of, lambda timeline: [span_s or timeline.whole], limits=limits)
    if found.too_short:
        raise DecodeError(found.too_short[0])
    return found.clips[0]


def whole_clip(file: Path, request: ClipRequest) -> VideoClip:
    """The whole of a video file that somebody named, as one clip. Raises DataError with its name where it is no video,
    is damaged or cannot be read."""
    with naming(file):
        return clip_of_video(file, request)


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """What is wrong with a video file is a DataError with its name."""
    try:
        yield
    except DecodeError as error:
        raise DataError(f"{file}: {error.what}", hint="name a video file that can be decoded") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error


def frames_of_video(
    file: Path | bytes, frames: ShownFrames, *, start_s: float | None, end_s: float | None, limits: Limits = LIMITS
) -> VideoClip:
    """The frames that are shown of a video, or of the seconds from `start_s` (None: its start) to `end_s` (None: its
    end), in the size that they have: views u8 [1,T,H,W,3]. Raises as `clip_of_video`."""

    def spans_of(timeline: Timeline) -> list[Span]:
        begin, end = timeline.whole
        return [(begin if start_s is None else start_s, end if end_s is None else end_s)]

    found = _clips(file, frames, lambda shown: shown[None], spans_of, limits=limits)
    if found.too_short:
        raise DecodeError(found.too_short[0])
    return found.clips[0]


def clips_of_video(
    file: Path | bytes,
    request: ClipRequest,
    *,
    windows: Windows | None = None,
    first: int = 0,
    at_most: int | None = None,
    limits: Limits = LIMITS,
) -> VideoClips:
    """The clips `first`, `first` + 1, … of a video, `at_most` so many: one a window, or one of the whole video.

    The frames of `request` are chosen among all that the window has in the file. One window's frames are in memory in
    the size of the file, and the views of all that are asked for.

    A window that holds fewer frames than the model sees is no clip (a whole video may: it repeats its last). Raises
    DecodeError for what is no video, or is damaged, OSError where the file cannot be read.
    """
    spans_of = (lambda timeline: [timeline.whole]) if windows is None else windows.spans
    return _clips(file, request.frames, request.views_of, spans_of, first=first, at_most=at_most, limits=limits)


def _clips(
    file: Path | bytes,
    frames: ShownFrames,
    views_of: Callable[[Pixels], Pixels],
    spans_of: Callable[[Timeline], list[Span]],
    *,
    first: int = 0,
    at_most: int | None = None,
    limits: Limits,
) -> VideoClips:
    spans: list[Span] = []
    some: list[Span] = []  # those that are asked for and are clips
    chosen: list[list[int]] = []  # the frames of each of these
    too_short: list[str] = []
    wanted: list[int] = []  # all frames, each once

    def choose(timeline: Timeline) -> list[int]:
        for found in (some, chosen, too_short):
            found.clear()  # it may be asked twice
        spans[:] = spans_of(timeline)
        for span in spans[first:] if at_most is None else spans[first : first + at_most]:
            is_whole = span == timeline.whole  # such a video may have no times
            held = timeline.within(None if is_whole else span)
            if len(held) < frames.count and not is_whole:
                too_short.append(_too_short(span, held, frames))
                continue
            some.append(span)
            chosen.append([held.start + number for number in frames.choose(len(held))])
        wanted[:] = sorted({number for numbers in chosen for number in numbers}) or [0]  # one must be chosen
        return wanted

    def encode(_: int, decoded: Iterator[Pixels]) -> list[Tensor]:
        numbered = zip(wanted, decoded, strict=True)
        views = list(_views(numbered, chosen, views_of))
        deque(numbered, maxlen=0)
        return views

    views = encode_by_time(file, choose, encode, limits=limits).content
    clips = tuple(VideoClip(span, shown) for span, shown in zip(some, views, strict=True))
    return VideoClips(clips, len(spans), tuple(too_short))


def _too_short(span: Span, held: range, frames: ShownFrames) -> str:
    return (
        f"its {span[1] - span[0]:g} s from {span[0]:g} s on hold {len(held)} frames, and the model sees "
        f"{frames.count} of a window"
    )


def _views(
    frames: Iterator[tuple[int, Pixels]], chosen: Sequence[Sequence[int]], views_of: Callable[[Pixels], Pixels]
) -> Iterator[Tensor]:
    """The views of each clip, made as soon as its last frame has come. frames: each once, after its number."""
    held: dict[int, Pixels] = {}
    for numbers in chosen:
        held = {number: frame for number, frame in held.items() if number >= min(numbers)}
        while max(numbers) not in held:
            number, frame = next(frames)
            held[number] = frame
        yield torch.from_numpy(views_of(np.stack([held[number] for number in numbers])))
