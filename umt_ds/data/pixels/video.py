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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

import av
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from umt_ds.data.pixels.video_file import Index, decoded_frames, walk, with_index
from umt_ds.data.pixels.video_open import LIMITS, Limits, Video, opened
from umt_ds.data.pixels.video_picture import Picture, Pixels, degrees, shown_size, shrunk, turn_of
from umt_ds.data.pixels.video_timeline import Span, Timeline
from umt_ds.errors import DecodeError

__all__ = ["LIMITS", "Choose", "ChooseByTime", "Decoded", "Encoded", "FramesOfVideo", "Limits", "Pixels", "Span"]
__all__ += ["Timeline", "Transcoded", "VideoInfo", "decode", "decode_by_time", "encode_by_time", "probe", "shrink"]
__all__ += ["shrunk", "transcode", "versions", "write_mp4"]

Choose = Callable[[int], Sequence[int]]
ChooseByTime = Callable[[Timeline], Sequence[int]]
Content = TypeVar("Content")


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


@dataclass(frozen=True, kw_only=True)
class FramesOfVideo:
    """Which frames were taken of a video, and what is said of it. T frames. What is not `stored_…` is of the source."""

    numbers: tuple[int, ...]  # T frame numbers in the video, as chosen
    times_s: tuple[float, ...]  # T times as a player counts them, from the start of the file
    stored_width: int
    stored_height: int
    num_frames: int  # in the whole video, as the decoder counts
    fps: float
    duration_s: float  # of the whole video
    timeline: Timeline  # the same
    width: int  # as shown
    height: int
    codec: str
    interlaced: bool = False  # some of these frames hold two moments, in every other line
    transfer: str = ""  # of HDR videos: smpte2084 (PQ) or arib-std-b67 (HLG)
    decoder: str = "pyav"  # two decoders could count frames differently


@dataclass(frozen=True, kw_only=True)
class Encoded(FramesOfVideo, Generic[Content]):
    """Chosen frames of a video, each once and in order, as what `encode_by_time` was told to make of them."""

    content: Content


@dataclass(frozen=True, kw_only=True)
class Decoded(FramesOfVideo):
    """Chosen frames of a video."""

    frames: Pixels  # u8 [T,H,W,3], RGB, as shown


@dataclass(frozen=True, kw_only=True)
class Transcoded(FramesOfVideo):
    """A video as a small mp4, at a constant rate. Of `numbers` some are there twice, and some left out, where the rate
    of the source varies."""

    data: bytes  # H.264, yuv420p, no sound, upright, square pixels; its index lies in front (faststart); b"" in a file
    stored_fps: float


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
    """Chosen frames of a video, RGB uint8 [T,H,W,3], in any order, some perhaps twice. The rest is as in
    `encode_by_time`; where the picture size changes on the way, all frames get the size of the first one.
    """
    encoded = encode_by_time(source, choose, _gathered, short_side=short_side, limits=limits)
    facts = {field.name: getattr(encoded, field.name) for field in fields(FramesOfVideo)}
    rows = np.searchsorted(sorted(set(encoded.numbers)), encoded.numbers)
    in_order = len(rows) == len(encoded.content) and bool((np.diff(rows) == 1).all())
    return Decoded(frames=encoded.content if in_order else encoded.content[rows], **facts)


def _gathered(count: int, frames: Iterator[Pixels]) -> Pixels:
    first = next(frames)
    gathered = np.empty((count, *first.shape), np.uint8)
    for row, frame in enumerate(chain([first], frames)):
        gathered[row] = frame
    return gathered


def encode_by_time(
    source: Path | bytes,
    choose: ChooseByTime,
    encode: Callable[[int, Iterator[Pixels]], Content],
    *,
    short_side: int | None = None,
    limits: Limits = LIMITS,
) -> Encoded[Content]:
    """What `encode` makes of chosen frames of a video: however many they are, one is in memory at a time.

    `choose` is a function from the times of the video's frames to a list of their numbers. `encode` is told how many
    frames come, and gets each of those chosen once, in the order of the video, RGB uint8 [H,W,3]. Both can be asked
    twice: what the first time gave then counts for nothing.
    With `short_side`, larger frames are shrunk to it (bicubic, antialiased); smaller ones are never enlarged.

    Raises DecodeError, with a reason a person understands, for what is no video, damaged, or above `limits`.
    """

    def use(video: Video, index: Index) -> Encoded[Content]:
        numbers = _chosen(choose(index.timeline), index.count)
        wanted = sorted(set(numbers))
        picture = Picture(video, short_side, step=1, limits=limits)
        content = encode(len(wanted), (picture.rgb(frame) for _, frame in walk(video, index, wanted)))
        return Encoded(content=content, **_facts(video, index, numbers, picture))

    return with_index(source, limits, use)


def _facts(video: Video, index: Index, numbers: Sequence[int], picture: Picture) -> dict[str, Any]:
    """The fields of FramesOfVideo, once all frames have come."""
    return {
        "numbers": tuple(numbers),
        "times_s": tuple(index.timeline.seconds[n] for n in numbers),
        "stored_width": picture.size[0],
        "stored_height": picture.size[1],
        "num_frames": index.count,
        "fps": video.fps,
        "duration_s": video.shown_s(index.timeline),
        "timeline": index.timeline,
        "width": picture.source_size[0],
        "height": picture.source_size[1],
        "codec": video.stream.codec_context.name,
        "interlaced": picture.interlaced,
        "transfer": picture.transfer,
    }


def transcode(
    source: Path | bytes,
    *,
    short_side: int,
    fps: float | None = None,
    span_s: Span | Callable[[Timeline], Span | None] | None = None,
    each_once: bool = False,
    file: Path | None = None,
    gop: int = 12,
    crf: int = 23,
    limits: Limits = LIMITS,
) -> Transcoded:
    """A video, or a span of it, as a small mp4 in which seeking is cheap: a key frame at least each `gop` frames.

    `span_s` can be a function from the times of the video's frames to the span (None: all); it can be asked twice.
    The output has a constant rate: the source's average, or `fps` where that is less. Each output frame is the
    source frame nearest in time; with `each_once` the output is every source frame in order, once, whatever its time
    (and `fps` counts for nothing). One frame at a time is in memory, and the mp4, unless it is written to `file`. The
    same source gives the same bytes.
    Raises DecodeError as `decode` does, and OSError where `file` cannot be written.
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
        data = _mp4(frames, rate=rate, gop=gop, crf=crf, file=file)
        return Transcoded(data=data, stored_fps=float(rate), **_facts(video, index, numbers, picture))

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


def _mp4(frames: Iterable[VideoFrame], *, rate: Fraction, gop: int, crf: int, file: Path | None = None) -> bytes:
    """Encode frames of one size, at least one, at a constant rate; into `file`, and then the bytes are none."""
    memory = io.BytesIO()
    muxing = {"movflags": "+faststart", "fflags": "+bitexact"}
    coding = {"crf": str(crf), "g": str(gop), "preset": "veryfast"}
    # what would change the bytes: threads, version strings, and x264's macroblock tree, which gave other
    # bytes in one run out of three (seen in PyAV 18.1 at 96x96)
    coding |= {"threads": "1", "flags": "+bitexact", "mbtree": "0"}
    # to move the index to the front, the muxer opens what it wrote once more, for reading
    reopened: Any = None if file else lambda *_: io.BytesIO(memory.getvalue())
    with av.open(str(file or "") or memory, "w", format="mp4", container_options=muxing, io_open=reopened) as container:
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
    return memory.getvalue()


def _chosen(wanted: Sequence[int], count: int) -> tuple[int, ...]:
    numbers = tuple(int(number) for number in wanted)
    if not numbers:
        raise ValueError(f"no frame was chosen of a video of {count}")
    if min(numbers) < 0 or max(numbers) >= count:
        raise DecodeError(f"frames {min(numbers)} to {max(numbers)} were asked of a video of {count}")
    return numbers
