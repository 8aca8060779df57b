"""What can be known of a video without storing it: what its header says, and each of its frames once. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from umt_ds.data.pixels.video_file import Index, walk, with_index
from umt_ds.data.pixels.video_open import LIMITS, Limits, Video, opened
from umt_ds.data.pixels.video_picture import Picture, Pixels
from umt_ds.data.pixels.video_timeline import Timeline

SeeFrame = Callable[[int, Pixels], None]  # the number of a frame, and the frame u8 [H,W,3]


@dataclass(frozen=True)
class Header:
    """What a container claims of its film; `duration_s` is 0 where it makes no claim."""

    duration_s: float
    short_side: int  # pixels, in square pixels


def read_header(source: Path, *, limits: Limits = LIMITS) -> Header:
    """The claims of a video file; nothing is decoded. Raises DecodeError for what is no video."""
    with opened(source, limits) as video:
        context = video.stream.codec_context
        ratio = video.stream.sample_aspect_ratio or context.sample_aspect_ratio or Fraction(1)
        return Header(video.duration_s, min(round(context.width * ratio), context.height))


def scan_frames(
    source: Path, begin: Callable[[Timeline], SeeFrame], *, short_side: int, limits: Limits = LIMITS
) -> Timeline:
    """Show every frame of a video, in order and shrunk to `short_side`, to what `begin` gives. One frame is in memory.

    `begin` is asked once more where the packets of the file mislead: then its frames are shown again from the first.
    Raises DecodeError as `video.decode` does.
    """

    def show(video: Video, index: Index) -> Timeline:
        see = begin(index.timeline)
        picture = Picture(video, short_side, step=1, limits=limits)
        for number, frame in walk(video, index, range(index.count)):
            see(number, picture.rgb(frame))
        return index.timeline

    return with_index(source, limits, show)
