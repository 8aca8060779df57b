"""A video file from a stranger: opened with every check that needs no decoding, its frames told apart by number.

Frames are told apart by their presentation times. The packets are read once, without decoding, for the times and the
key frames, and to see whether all came that the file promises (`video_cut`); `walk` then seeks to the key frame
before a wanted frame where that saves decoding, and checks that each frame that comes out is the next one. Where the
packets mislead (none has a time, some show nothing, an edit list hides some) all frames are decoded from the start
and counted.
"""

from __future__ import annotations

import io
import os
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import av
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from umt_ds.data.video_cut import Came, check_all_came, lacks_its_index, size_of
from umt_ds.data.video_timeline import Timeline, constant_rate, timeline
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
# A decoder reorders at most so many frames (H.264): where a file was cut off, the last ones can have holes.
_MOST_REORDERED = 16
# Sound that starts this much earlier than the picture is no matter of encoders.
_IN_SYNC_S = 0.25
# What streams say of their length and what their frames show differ by this much in good files.
_SAME_LENGTH_S = 0.5
# A film has more than this many frames for each of its thumbnails.
_PER_THUMBNAIL = 10
# A seek costs about as much as decoding a few frames.
_WORTH_A_SEEK = 4


@dataclass(frozen=True)
class Limits:
    """Sizes above which a file is refused, by what it claims and again by what it delivers while it is decoded."""

    max_bytes: int = 16 << 30
    max_pixels: int = 8192 * 8192  # of one frame
    max_frames: int = 2_000_000  # 18 hours at 30 fps


LIMITS = Limits()


@dataclass(frozen=True)
class Video:
    """An open container and the video stream that is its film."""

    source: Path | bytes
    container: InputContainer
    stream: VideoStream

    @property
    def fps(self) -> float:
        return float(self.stream.average_rate or self.stream.guessed_rate or 0)

    @property
    def num_frames(self) -> int:
        """How many frames the stream says it has; 0 where it does not say."""
        return self.stream.frames if self._can_hold(self.stream.frames) else 0

    @property
    def stream_s(self) -> float:
        """How long the video stream says it is, in seconds; 0 where it does not say."""
        if not self.stream.duration or not self.stream.time_base:
            return 0.0
        seconds = float(self.stream.duration * self.stream.time_base)
        return seconds if self._can_hold(seconds * self.fps) else 0.0

    @property
    def duration_s(self) -> float:
        """The same; where the stream does not say, the whole file, whose sound may last longer."""
        whole_s = (self.container.duration or 0) / av.time_base
        return self.stream_s or (whole_s if self._can_hold(whole_s * self.fps) else 0.0)

    def _can_hold(self, frames: float) -> bool:
        """A live recording can have a number in place of what was not known yet: it would not fit into the file."""
        return frames <= size_of(self.source)

    def shown_s(self, timeline: Timeline) -> float:
        """How long the video is: what the stream says, unless that is of something else (in asf, of the longest)."""
        stated = self.stream_s
        differs = timeline.rate != 0 and abs(stated - timeline.duration_s) > _SAME_LENGTH_S
        return timeline.duration_s if not stated or differs else stated


@contextmanager
def opened(source: Path | bytes, limits: Limits) -> Iterator[Video]:
    """A video after every check that needs no decoding."""
    size = size_of(source)
    if size == 0:
        raise DecodeError("file is empty (0 bytes)")
    if size > limits.max_bytes:
        raise DecodeError(f"file has {size:,} bytes, above the limit of {limits.max_bytes:,}")
    container = _open(source, limits)
    with container:
        video = Video(source, container, _film(source, container, limits))
        _check_limits(video, limits)
        # a stream can grow its frames on the way: the decoder then stops before it takes the memory
        video.stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
        yield video


def _open(source: Path | bytes, limits: Limits) -> InputContainer:
    # a relative path could be read as a protocol (`concat:…`, `http:…`)
    file = io.BytesIO(source) if isinstance(source, bytes) else os.path.abspath(source)
    try:
        options = {"format_whitelist": _CONTAINERS, "max_pixels": str(limits.max_pixels)}
        return av.open(file, "r", options=options, metadata_errors="ignore")
    except av.FFmpegError as error:
        if lacks_its_index(source):
            raise DecodeError(
                "damaged: its index (moov) is missing: the file was cut off, or never finished"
            ) from error
        raise DecodeError(f"not a video container, or its header is damaged ({error.strerror})") from error


def _film(source: Path | bytes, container: InputContainer, limits: Limits) -> VideoStream:
    """The video stream that ffmpeg would show, to be decoded by one thread: processes are our parallelism."""
    kinds = {stream.type for stream in container.streams}
    if not kinds:
        raise DecodeError("no streams: the container is empty")
    films = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not films:
        others = " and ".join(sorted(kinds - {"video"})) or "a cover picture"
        raise DecodeError(f"no video stream ({others} only)")
    stream = films[0] if len(films) == 1 else max(_moving(source, films, limits), key=_rank)
    if stream.codec_context is None:
        raise DecodeError("no decoder knows its video codec")
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return stream


def _rank(stream: VideoStream) -> int:
    """ffmpeg's own choice among several: the default one, then the largest, then the first."""
    context = stream.codec_context
    area = context.width * context.height if context else -1
    return area + 5_000_000 * bool(stream.disposition & Disposition.default)


def _moving(source: Path | bytes, streams: list[VideoStream], limits: Limits) -> list[VideoStream]:
    """Those of several streams that are no thumbnails: not declared as such, no single picture, nor a few of a film."""
    pictures = Disposition.still_image | Disposition.timed_thumbnails
    undeclared = [stream for stream in streams if not stream.disposition & pictures] or streams
    shown = Counter[int]()
    with suppress(av.FFmpegError), _open(source, limits) as container:
        for packet in container.demux(*(container.streams[stream.index] for stream in undeclared)):
            shown[packet.stream_index] += bool(packet.size)
    least = max(2, max(shown.values(), default=0) / _PER_THUMBNAIL)
    return [stream for stream in undeclared if shown[stream.index] >= least] or undeclared


def _check_limits(video: Video, limits: Limits) -> None:
    width, height = video.stream.codec_context.width, video.stream.codec_context.height
    if width * height > limits.max_pixels:
        raise DecodeError(f"frames of {width}x{height} are above the limit of {limits.max_pixels:,} pixels")
    frames = max(video.num_frames, round(video.duration_s * video.fps))
    if frames > limits.max_frames:
        raise DecodeError(f"claims {frames:,} frames, above the limit of {limits.max_frames:,}")


class AstrayError(DecodeError):
    """The index and what comes out of the decoder do not agree."""


@dataclass(frozen=True)
class Index:
    """The frames of a video in the order shown, and how to find them in the file. N frames."""

    timeline: Timeline
    ticks: Sequence[int] | None  # N times as the packets state them, ascending; None: frames can only be counted
    keys: Sequence[int]  # numbers of the frames where decoding can begin

    @property
    def count(self) -> int:
        return self.timeline.count

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
    packets: list[_Packet] = []
    is_partial = False
    try:
        for packet in video.container.demux(video.stream):
            if packet.size and not packet.is_discard:
                packets.append(_Packet(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe))
                is_partial = packet.is_corrupt
                _check_count(len(packets), limits)
    except av.FFmpegError as error:
        _check_all_came(video, packets, is_partial, limits)
        raise DecodeError(f"damaged: its packets cannot be read ({error.strerror})") from error
    _check_all_came(video, packets, is_partial, limits)
    if not packets:
        raise DecodeError("its video stream holds no frame")
    if not video.stream.time_base or any(packet.pts is None for packet in packets):
        return Index(_timeline(video, [None] * len(packets)), None, ())
    packets.sort(key=_Packet.shown)
    ticks = [packet.shown() for packet in packets]
    base = float(video.stream.time_base)
    times = _timeline(
        video,
        [float((tick - ticks[0]) * video.stream.time_base) for tick in ticks],
        last_s=packets[-1].duration * base,
        begin_s=_begin_s(video, ticks[0] * base),
    )
    if len(set(ticks)) < len(ticks):
        return Index(times, None, ())
    seekable = video.container.format.name not in _SEEKS_ASTRAY
    return Index(times, ticks, [n for n, packet in enumerate(packets) if packet.is_key and seekable])


class _Packet(NamedTuple):
    """Times in ticks of the stream."""

    pts: int | None
    dts: int | None
    duration: int
    is_key: bool

    def shown(self) -> int:
        assert self.pts is not None
        return self.pts


def _check_all_came(video: Video, packets: Sequence[_Packet], is_partial: bool, limits: Limits) -> None:
    check_all_came(video.container, video.stream, video.source, is_partial, lambda: _what_came(video, packets, limits))


def _what_came(video: Video, packets: Sequence[_Packet], limits: Limits) -> Came:
    base = float(video.stream.time_base or 0)
    step = 1 / video.fps if video.fps else 0.0
    begins = sorted(packet.pts * base for packet in packets if packet.pts is not None)
    ends = [packet.pts * base + (packet.duration * base or step) for packet in packets if packet.pts is not None]
    steady = [time - begins[0] for time in begins[:-_MOST_REORDERED]]
    return Came(
        count=len(packets),
        first_s=begins[0] if begins else 0.0,
        end_s=max(ends, default=0.0),
        rate=constant_rate(steady, stated=video.fps, tick_s=base) if len(steady) > 1 else None,
        promised=video.num_frames,
        ticks=max((packet.dts + 1 for packet in packets if packet.dts is not None), default=len(packets)),
        others_end_s=_others_end_s(video, limits),
    )


def _others_end_s(video: Video, limits: Limits) -> float:
    """When the last packet of the other streams begins; 0 where there are none."""
    last = 0.0
    with suppress(av.FFmpegError), _open(video.source, limits) as container:
        others = [other for other in container.streams if other.index != video.stream.index]
        for packet in container.demux(*others) if others else ():
            if packet.pts is not None:
                last = max(last, _seconds(packet.stream, packet.pts))
    return last


def _seconds(stream: Stream, ticks: int) -> float:
    return float(ticks * stream.time_base) if stream.time_base else 0.0


def _begin_s(video: Video, first_s: float) -> float:
    """When the first frame is shown, on a player's clock, which starts with the file: its sound can start earlier.

    By less than _IN_SYNC_S it does so in most files, for encoders delay both, and no one meant it.
    """
    start = video.container.start_time
    streams = (*video.container.streams.audio, *video.container.streams.video)
    others = [stream for stream in streams if stream.index != video.stream.index]
    starts = [_seconds(other, other.start_time) for other in others if other.start_time is not None]
    if start is None or min(starts, default=first_s) >= first_s:
        return 0.0
    late = first_s - start / av.time_base
    return late if late >= _IN_SYNC_S else 0.0


def _index_by_decoding(video: Video, expected: int, limits: Limits) -> Index:
    """What comes out when the whole video is decoded. Raises DecodeError where it is damaged."""
    times: list[float | None] = []
    for frame in decoded_frames(video, expected):
        times.append(frame.time)
        _check_count(len(times), limits)
    return Index(_timeline(video, times, begin_s=_begin_s(video, times[0] or 0.0)), None, ())


def _timeline(video: Video, times: Sequence[float | None], *, last_s: float = 0.0, begin_s: float = 0.0) -> Timeline:
    tick_s = float(video.stream.time_base or 0)
    return timeline(times, fps=video.fps, tick_s=tick_s, last_s=last_s, begin_s=begin_s)


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
