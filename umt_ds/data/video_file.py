"""A video file from a stranger: opened with every check that needs no decoding, its frames told apart by number.

Frames are told apart by their presentation times. The packets are read once, without decoding, for the times and
the key frames; `walk` then seeks to the key frame before a wanted frame where that saves decoding, and checks that
each frame that comes out is the next one. Where the packets mislead (none has a time, some show nothing, an edit
list hides some) all frames are decoded from the start and counted.
"""

from __future__ import annotations

import io
import os
import stat
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from umt_ds.data.picture import MAX_PIXELS
from umt_ds.errors import DecodeError

Result = TypeVar("Result")

# Containers of moving pictures. Not among them: playlists (hls, dash, concat, sdp), which make ffmpeg open
# other files and addresses than the one it was given, and single images.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpeg,mpegts,mpegvideo,m4v,asf,ogg,gif,apng,ivf,dv,mxf,nut,"
    "h264,hevc,av1,obu,rm,yuv4mpegpipe"
)
# These have no table of key frames: a seek guesses, and often lands behind the wanted frame.
_SEEKS_ASTRAY = ("mpeg", "mpegts")
# A seek costs about as much as decoding a few frames.
_WORTH_A_SEEK = 4


@dataclass(frozen=True)
class Limits:
    """Sizes above which a file is refused, by what it claims and again by what it delivers while it is decoded."""

    max_bytes: int = 16 << 30
    max_pixels: int = MAX_PIXELS  # of one frame, as stored and as shown
    max_frames: int = 2_000_000  # 18 hours at 30 fps


LIMITS = Limits()


@dataclass(frozen=True)
class Video:
    """An open container and its best video stream."""

    container: InputContainer
    stream: VideoStream

    @property
    def fps(self) -> float:
        return float(self.stream.average_rate or self.stream.guessed_rate or 0)

    @property
    def stream_s(self) -> float:
        """How long the video stream says it is, in seconds; 0 where it does not say."""
        if self.stream.duration and self.stream.time_base:
            return float(self.stream.duration * self.stream.time_base)
        return 0.0

    @property
    def duration_s(self) -> float:
        """The same; where the stream does not say, the whole file, whose sound may last longer."""
        return self.stream_s or (self.container.duration or 0) / av.time_base


@contextmanager
def opened(source: Path | bytes, limits: Limits) -> Iterator[Video]:
    """A video after every check that needs no decoding."""
    size = _size(source)
    if size == 0:
        raise DecodeError("file is empty (0 bytes)")
    if size > limits.max_bytes:
        raise DecodeError(f"file has {size:,} bytes, above the limit of {limits.max_bytes:,}")
    try:
        options = {"format_whitelist": _CONTAINERS, "max_pixels": str(limits.max_pixels)}
        container = av.open(_file(source), "r", options=options, metadata_errors="ignore")
    except av.FFmpegError as error:
        raise DecodeError(f"not a video container, or its header is damaged ({error.strerror})") from error
    with container:
        video = Video(container, _video_stream(container))
        _check_limits(video, limits)
        # a stream can grow its frames on the way: the decoder then stops before it takes the memory
        video.stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
        yield video


def _size(source: Path | bytes) -> int:
    """In bytes. Raises OSError where the system does not let the file be read: ffmpeg would call it damaged."""
    if isinstance(source, bytes):
        return len(source)
    status = source.stat()
    if not stat.S_ISREG(status.st_mode):  # to open a pipe waits for whoever writes to it
        raise DecodeError("is a folder, pipe or device and no file")
    with source.open("rb") as file:
        file.read(1)
    return status.st_size


def _file(source: Path | bytes) -> io.BytesIO | str:
    """An absolute path, because ffmpeg could read a relative one as a protocol (`concat:…`, `http:…`)."""
    return io.BytesIO(source) if isinstance(source, bytes) else os.path.abspath(source)


def _video_stream(container: InputContainer) -> VideoStream:
    """The best video stream, to be decoded by one thread: processes are our parallelism."""
    kinds = {stream.type for stream in container.streams}
    if not kinds:
        raise DecodeError("no streams: the container is empty")
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or Disposition.attached_pic in Disposition(stream.disposition):
        others = " and ".join(sorted(kinds - {"video"})) or "a cover picture"
        raise DecodeError(f"no video stream ({others} only)")
    if stream.codec_context is None:
        raise DecodeError("no decoder knows its video codec")
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return stream


def _check_limits(video: Video, limits: Limits) -> None:
    width, height = video.stream.codec_context.width, video.stream.codec_context.height
    if width * height > limits.max_pixels:
        raise DecodeError(f"frames of {width}x{height} are above the limit of {limits.max_pixels:,} pixels")
    frames = max(video.stream.frames, round(video.duration_s * video.fps))
    if frames > limits.max_frames:
        raise DecodeError(f"claims {frames:,} frames, above the limit of {limits.max_frames:,}")


class AstrayError(DecodeError):
    """The index and what comes out of the decoder do not agree."""


@dataclass(frozen=True)
class Index:
    """The frames of a video in the order shown. N frames."""

    seconds: Sequence[float]  # N times from the first frame
    duration_s: float  # up to the end of the last frame
    ticks: Sequence[int] | None  # N times as the packets state them, ascending; None: frames can only be counted
    keys: Sequence[int]  # numbers of the frames where decoding can begin

    @property
    def count(self) -> int:
        return len(self.seconds)

    def number_of(self, frame: VideoFrame) -> int:
        """Raises AstrayError for a frame that no packet announced."""
        assert self.ticks is not None
        number = -1 if frame.pts is None else bisect_left(self.ticks, frame.pts)
        if not 0 <= number < self.count or self.ticks[number] != frame.pts:
            raise AstrayError("damaged: its frames have other times than its packets")
        return number

    def key_before(self, number: int) -> int:
        """The last key frame up to `number`; 0 where there is none."""
        place = bisect_right(self.keys, number)
        return self.keys[place - 1] if place else 0

    def rate(self, stated: Fraction | None, *, at_most: float | None) -> Fraction:
        """Frames per second: as the stream states it, if that is about what its frames show."""
        seen = Fraction(self.count / self.duration_s) if self.duration_s else None
        rate = stated if stated and (seen is None or 0.9 < stated / seen < 1.1) else seen
        if rate is None:
            raise DecodeError("states neither its frame rate nor the times of its frames")
        rate = rate if at_most is None else min(rate, Fraction(at_most))
        return max(rate.limit_denominator(1001), Fraction(1, 1001))

    def at_rate(self, rate: Fraction, span_s: tuple[float, float], limits: Limits) -> list[int]:
        """The numbers of the frames nearest to the times start, start + 1/rate, … before the end of the span."""
        start, end = span_s[0], min(span_s[1], self.duration_s)
        count = max(1, round((end - start) * rate))
        if start >= self.duration_s:
            raise DecodeError(f"lasts {self.duration_s:.1f} s and has no frame at {start:g} s")
        if count > limits.max_frames:
            raise DecodeError(
                f"{count:,} frames at {float(rate):g} a second are above the limit of {limits.max_frames:,}"
            )
        times = np.asarray(self.seconds)
        numbers = np.searchsorted((times[1:] + times[:-1]) / 2, start + np.arange(count) / float(rate))
        return [int(number) for number in numbers]


def with_index(source: Path | bytes, limits: Limits, use: Callable[[Video, Index], Result]) -> Result:
    """`use` a freshly opened video and the index of its frames: by its packets or, where they mislead, by counting."""
    with opened(source, limits) as video:
        index = _index_of_packets(video, limits)
    try:
        with opened(source, limits) as video:
            return use(video, index)
    except AstrayError:
        with opened(source, limits) as video:
            index = _index_by_decoding(video, index.count, limits)
        with opened(source, limits) as video:
            return use(video, index)


def _index_of_packets(video: Video, limits: Limits) -> Index:
    """What the packets say, without decoding one: quick, and not always true (some packets show nothing)."""
    ticks: list[int | None] = []
    keys: list[int] = []
    seekable = video.container.format.name not in _SEEKS_ASTRAY
    try:
        for packet in video.container.demux(video.stream):
            if packet.size and not packet.is_discard:
                ticks.append(packet.pts)
                if packet.is_keyframe and packet.pts is not None and seekable:
                    keys.append(packet.pts)
                _check_count(len(ticks), limits)
    except av.FFmpegError as error:
        raise DecodeError(f"damaged: its packets cannot be read ({error.strerror})") from error
    if not ticks:
        raise DecodeError("its video stream holds no frame")
    known = sorted(tick for tick in ticks if tick is not None)
    if len(set(known)) < len(ticks) or not video.stream.time_base:
        return _index([None] * len(ticks), video.fps)
    base = video.stream.time_base
    seconds = [float((tick - known[0]) * base) for tick in known]
    return _index(seconds, video.fps, known, [bisect_left(known, key) for key in sorted(keys)])


def _index_by_decoding(video: Video, expected: int, limits: Limits) -> Index:
    """What comes out when the whole video is decoded. Raises DecodeError where it is damaged."""
    times: list[float | None] = []
    for frame in decoded_frames(video, expected):
        times.append(frame.time)
        _check_count(len(times), limits)
    return _index(times, video.fps)


def _index(
    times: Sequence[float | None], fps: float, ticks: Sequence[int] | None = None, keys: Sequence[int] = ()
) -> Index:
    """Times that are missing or not ascending are replaced by those of a constant rate."""
    step = 1 / fps if fps else 0.0
    known = [time for time in times if time is not None]
    ascending = all(earlier < later for earlier, later in pairwise(known))
    if len(known) == len(times) and ascending:
        seconds = [time - known[0] for time in known]
    else:
        seconds = [number * step for number in range(len(times))]
    last = step or (seconds[-1] / (len(seconds) - 1) if len(seconds) > 1 else 0.0)
    return Index(seconds, seconds[-1] + last, ticks, keys)


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.max_frames:
        raise DecodeError(f"has more than {limits.max_frames:,} frames, which is the limit")


def walk(video: Video, index: Index, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
    """The frames `wanted` (numbers, ascending) of a video just opened. Raises AstrayError where the index misleads."""
    return _walk_by_count(video, index, wanted) if index.ticks is None else _walk_by_time(video, index, wanted)


def _walk_by_time(video: Video, index: Index, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
    assert index.ticks is not None
    frames, at = video.container.decode(video.stream), -1
    try:
        for number in wanted:
            key = index.key_before(number)
            if key - at > _WORTH_A_SEEK:
                video.container.seek(index.ticks[key], stream=video.stream)
                frames, at = video.container.decode(video.stream), key - 1
            while at < number:
                frame = next(frames, None)
                if frame is None or (came := index.number_of(frame)) > at + 1:
                    raise AstrayError("damaged: some of its packets show no frame")
                if came == at + 1:  # others belong before the key frame that we sought, and can lack what they show
                    at = came
                    _check_whole(frame, came, index.count)
            assert frame is not None
            yield number, frame
    except av.FFmpegError as error:
        raise AstrayError(f"damaged ({error.strerror})") from error


def _walk_by_count(video: Video, index: Index, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
    remaining = iter(wanted)
    number = next(remaining)
    for at, frame in enumerate(decoded_frames(video, index.count)):
        if at == number:
            yield number, frame
            number = next(remaining, -1)
            if number < 0:
                return
    raise AstrayError("damaged: some of its packets show no frame")


def decoded_frames(video: Video, expected: int | None = None) -> Iterator[VideoFrame]:
    """The frames of the stream; DecodeError where decoding stops early, or where there is not even one."""
    seen = 0
    try:
        for frame in video.container.decode(video.stream):
            _check_whole(frame, seen, expected)
            seen += 1
            yield frame
    except av.FFmpegError as error:
        of = f" of {expected}" if expected else ""
        where = f"decoding stops after {seen}{of} frames" if seen else "no frame can be decoded"
        raise DecodeError(f"damaged: {where} ({error.strerror})") from error
    if seen == 0:
        raise DecodeError("damaged: no frame can be decoded")


def _check_whole(frame: VideoFrame, number: int, expected: int | None) -> None:
    """ffmpeg fills the holes of a damaged frame with what was there before, and the frames after it build on that."""
    if frame.is_corrupt:
        raise DecodeError(f"damaged: frame {number}{f' of {expected}' if expected else ''} is incomplete")
