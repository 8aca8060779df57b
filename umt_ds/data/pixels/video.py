"""The one door to PyAV: what a video file says of itself, chosen frames of it, a small mp4 of it. Torch-free.

Frames come out as `ffmpeg -i` shows them: turned and mirrored as the display matrix says, in square pixels.
Interlaced and HDR videos are left as they are, and this is said of them. What only decodes in part is refused, with
the number of frames. Files are opened (`video_open`), used and closed within one call; `video_file` finds the frames in
them, `video_timeline` those of given seconds, `video_cut` sees where some are missing, and `video_picture` makes
pictures of them. ffmpeg is no safe place for files from strangers: where those are decoded, do it in a process that may
die (`data_prep.engines`).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from umt_ds.data.pixels.video_file import Index, decoded_frames, walk, with_index
from umt_ds.data.pixels.video_open import LIMITS, Limits, Video, opened
from umt_ds.data.pixels.video_picture import Picture, Pixels, degrees, shown_size, shrunk, turn_of
from umt_ds.data.pixels.video_timeline import Span, Timeline
from umt_ds.errors import DecodeError

__all__ = ["LIMITS", "Choose", "ChooseByTime", "Decoded", "Limits", "Pixels", "Span", "Timeline", "Transcoded"]
__all__ += ["VideoInfo", "decode", "decode_by_time", "probe", "shrink", "transcode", "versions", "write_mp4"]

Choose = Callable[[int], Sequence[int]]
ChooseByTime = Callable[[Timeline], Sequence[int]]


def versions() -> str:
    """The decoder and its version: they decide the pixels."""
    return f"av {av.__version__}"


@dataclass(frozen=True)
class VideoInfo:
    """What the container says. `num_frames`, `fps` and `duration_s` are claims, and 0 where it makes none."""

    codec: str
    width: int  # as shown: in square pixels, after `rotation`
    height: int
    rotation: int  # degrees clockwise: 0, 90, 180, 270; of a mirrored video, before it is mirrored left to right
    fps: float
    duration_s: float
    num_frames: int


@dataclass(frozen=True)
class Decoded:
    """Chosen frames of a video. T frames."""

    frames: Pixels  # u8 [T,H,W,3], RGB, as shown
    numbers: tuple[int, ...]  # T frame numbers in the video, as chosen
    times_s: tuple[float, ...]  # T times as a player counts them, from the start of the file
    num_frames: int  # in the whole video, as the decoder counts
    fps: float
    duration_s: float  # of the whole video
    timeline: Timeline  # the same
    width: int  # of the source, as shown
    height: int
    codec: str
    interlaced: bool = False  # some of these frames hold two moments, in every other line
    transfer: str = ""  # of HDR videos: smpte2084 (PQ) or arib-std-b67 (HLG)
    decoder: str = "pyav"  # two decoders could count frames differently

    @property
    def stored_width(self) -> int:
        return int(self.frames.shape[2])

    @property
    def stored_height(self) -> int:
        return int(self.frames.shape[1])


@dataclass(frozen=True)
class Transcoded:
    """A video as a small mp4. T frames, at a constant rate. What is not `stored_…` is said of the source."""

    data: bytes  # H.264, yuv420p, no sound, upright, square pixels; its index lies in front (faststart)
    numbers: tuple[int, ...]  # T frame numbers in the source; some twice, some left out, where its rate varies
    times_s: tuple[float, ...]  # T times of those in the source, as a player counts them
    stored_fps: float
    stored_width: int
    stored_height: int
    num_frames: int
    fps: float
    duration_s: float
    timeline: Timeline
    width: int
    height: int
    codec: str
    interlaced: bool = False
    transfer: str = ""
    decoder: str = "pyav"


def probe(source: Path | bytes, *, limits: Limits = LIMITS) -> VideoInfo:
    """What a video file says of itself. Raises DecodeError, with the reason, for what is no video."""
    with opened(source, limits) as video:
        frame = next(decoded_frames(video))
        turn = turn_of(frame)
        width, height = shown_size(video, frame, turn, limits)
        return VideoInfo(
            codec=video.stream.codec_context.name,
            width=width,
            height=height,
            rotation=degrees(turn),
            fps=video.fps,
            duration_s=video.duration_s,
            num_frames=video.num_frames,
        )


def decode(
    source: Path | bytes,
    choose: Sequence[int] | Choose,
    *,
    short_side: int | None = None,
    limits: Limits = LIMITS,
) -> Decoded:
    """Frames of a video chosen by number: a list (any order, repeats allowed), or a function from the number of frames
    in the video to such a list. The rest is as in `decode_by_time`.
    """
    chooser = choose if callable(choose) else lambda _: choose
    return decode_by_time(source, lambda timeline: chooser(timeline.count), short_side=short_side, limits=limits)


def decode_by_time(
    source: Path | bytes,
    choose: ChooseByTime,
    *,
    short_side: int | None = None,
    limits: Limits = LIMITS,
) -> Decoded:
    """Chosen frames of a video, RGB uint8 [T,H,W,3].

    `choose` is a function from the times of the video's frames to a list of their numbers; it can be asked twice.
    With `short_side`, larger frames are shrunk to it (bicubic, antialiased) as they arrive, so that one full-size
    frame is in memory at a time; smaller ones are never enlarged. Where the picture size changes on the way, all
    frames get the size of the first chosen one.

    Raises DecodeError, with a reason a person understands, for what is no video, damaged, or above `limits`.
    """

    def gather(video: Video, index: Index) -> Decoded:
        numbers = _chosen(choose(index.timeline), index.count)
        wanted = sorted(set(numbers))
        picture = Picture(video, short_side, step=1, limits=limits)
        frames = np.empty((0,), np.uint8)
        for row, (_, frame) in enumerate(walk(video, index, wanted)):
            pixels = picture.rgb(frame)
            if row == 0:
                frames = np.empty((len(wanted), *pixels.shape), np.uint8)
            frames[row] = pixels
        return Decoded(
            frames=frames if list(numbers) == wanted else frames[np.searchsorted(wanted, numbers)],
            numbers=numbers,
            times_s=tuple(index.timeline.seconds[n] for n in numbers),
            num_frames=index.count,
            fps=video.fps,
            duration_s=video.shown_s(index.timeline),
            timeline=index.timeline,
            width=picture.source_size[0],
            height=picture.source_size[1],
            codec=video.stream.codec_context.name,
            interlaced=picture.interlaced,
            transfer=picture.transfer,
        )

    return with_index(source, limits, gather)


def transcode(
    source: Path | bytes,
    *,
    short_side: int,
    fps: float | None = None,
    span_s: Span | Callable[[Timeline], Span | None] | None = None,
    each_once: bool = False,
    gop: int = 12,
    crf: int = 23,
    limits: Limits = LIMITS,
) -> Transcoded:
    """A video, or a span of it, as a small mp4 in which seeking is cheap: a key frame at least each `gop` frames.

    `span_s` can be a function from the times of the video's frames to the span (None: all); it can be asked twice.
    The output has a constant rate: the source's average, or `fps` where that is less. Each output frame is the
    source frame nearest in time; with `each_once` the output is every source frame in order, once, whatever its time
    (and `fps` counts for nothing). One frame at a time is in memory; the same source gives the same bytes.
    Raises DecodeError as `decode` does.
    """

    def encode(video: Video, index: Index) -> Transcoded:
        rate = index.timeline.mean_rate(video.stream.average_rate, at_most=fps)
        span = span_s(index.timeline) if callable(span_s) else span_s
        whole = span or index.timeline.whole
        numbers = list(index.timeline.within(span)) if each_once else _at_rate(index.timeline, rate, whole, limits)
        picture = Picture(video, short_side, step=2, limits=limits)
        wanted, repeats = np.unique(numbers, return_counts=True)
        shown = zip(walk(video, index, wanted.tolist()), repeats.tolist(), strict=True)
        frames = (frame for (_, full), times in shown for frame in [picture.yuv(full)] * times)
        data = _mp4(frames, rate=rate, gop=gop, crf=crf)
        width, height = picture.size
        return Transcoded(
            data=data,
            numbers=tuple(numbers),
            times_s=tuple(index.timeline.seconds[n] for n in numbers),
            stored_fps=float(rate),
            stored_width=width,
            stored_height=height,
            num_frames=index.count,
            fps=video.fps,
            duration_s=video.shown_s(index.timeline),
            timeline=index.timeline,
            width=picture.source_size[0],
            height=picture.source_size[1],
            codec=video.stream.codec_context.name,
            interlaced=picture.interlaced,
            transfer=picture.transfer,
        )

    return with_index(source, limits, encode)


def _at_rate(timeline: Timeline, rate: Fraction, span_s: Span, limits: Limits) -> list[int]:
    """The numbers of the frames nearest to the times start, start + 1/rate, … before the end of the span."""
    start, end = timeline.clipped(span_s)
    count = max(1, round((end - start) * rate))
    if count > limits.max_frames:
        raise DecodeError(f"{count:,} frames at {float(rate):g} a second are above the limit of {limits.max_frames:,}")
    numbers = timeline.nearest(start + np.arange(count) / float(rate))
    if timeline.rate is not None:
        return numbers
    here = timeline.within(span_s)  # after a long pause, the nearest frame can be one before the span
    return [min(max(number, here.start), here.stop - 1) for number in numbers]


def shrink(frame: Pixels, short_side: int | None) -> Pixels:
    """`frame` [H,W,3] with its short side at most `short_side`, its aspect kept (bicubic, antialiased)."""
    height, width = frame.shape[:2]
    size = shrunk(width, height, short_side)
    if size == (width, height):
        return frame
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def write_mp4(path: Path, frames: Iterable[Pixels], *, fps: int, gop: int = 12, crf: int = 18) -> None:
    """Encode RGB uint8 frames (even height and width) as H.264 mp4. The same frames give the same bytes."""
    pictures = (VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames)
    path.write_bytes(_mp4(pictures, rate=Fraction(fps), gop=gop, crf=crf))


def _mp4(frames: Iterable[VideoFrame], *, rate: Fraction, gop: int, crf: int) -> bytes:
    """Encode frames of one size, at least one, at a constant rate."""
    file = io.BytesIO()
    muxing = {"movflags": "+faststart", "fflags": "+bitexact"}
    coding = {"crf": str(crf), "g": str(gop), "preset": "veryfast"}
    # what would change the bytes: threads, version strings, and x264's macroblock tree, which gave other
    # bytes in one run out of three (seen in PyAV 18.1 at 96x96)
    coding |= {"threads": "1", "flags": "+bitexact", "mbtree": "0"}
    # to move the index to the front, the muxer opens what it wrote once more, for reading
    with av.open(
        file, "w", format="mp4", container_options=muxing, io_open=lambda *_: io.BytesIO(file.getvalue())
    ) as container:
        stream = container.add_stream("libx264", rate=rate, options=coding)
        frames = iter(frames)
        first = next(frames)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = first.width, first.height, "yuv420p"
        context.colorspace, context.color_range = int(first.colorspace), int(first.color_range)
        context.color_primaries, context.color_trc = int(first.color_primaries), int(first.color_trc)
        for number, frame in enumerate(chain([first], frames)):
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def _chosen(wanted: Sequence[int], count: int) -> tuple[int, ...]:
    numbers = tuple(int(number) for number in wanted)
    if not numbers:
        raise ValueError(f"no frame was chosen of a video of {count}")
    if min(numbers) < 0 or max(numbers) >= count:
        raise DecodeError(f"frames {min(numbers)} to {max(numbers)} were asked of a video of {count}")
    return numbers
