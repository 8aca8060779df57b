"""The frames of a video file from a stranger, told apart by number.

Frames are told apart by their presentation times. The packets are read once, without decoding, for the times and the
key frames, and to see whether all came that the file promises (`video_cut`); `walk` then seeks to the key frame
before a wanted frame where that saves decoding, and checks that each frame that comes out is the next one. Where the
packets mislead (none has a time, some show nothing, an edit list hides some) all frames are decoded from the start
and counted.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

import av
from av.stream import Stream
from av.video.frame import VideoFrame

from umt_ds.data.pixels.video_cut import Came, check_all_came
from umt_ds.data.pixels.video_open import Limits, Video, open_container, opened, packets_of
from umt_ds.data.pixels.video_timeline import Timeline, constant_rate, timeline
from umt_ds.errors import DecodeError

Result = TypeVar("Result")

# These have no table of key frames: a seek guesses, and often lands behind the wanted frame. And what is put behind
# one another in them keeps its clock: a longer pause is none, but another recording. (ffmpeg says so of 10 s, which
# swallows the pauses of recorded screens.)
_BROADCAST = ("mpeg", "mpegts")
_LONGEST_PAUSE_S = 600.0
# A decoder reorders at most so many frames (H.264): where a file was cut off, the last ones can have holes.
_MOST_REORDERED = 16
# Bytes at the start of a frame, which are never all zero in a codec that is not lossless.
_BEGINNING = 64
# Sound that starts this much earlier than the picture is no matter of encoders.
_IN_SYNC_S = 0.25
# A seek costs about as much as decoding a few frames.
_WORTH_A_SEEK = 4


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
        following = bisect_right(self.keys, number)
        return self.keys[following - 1] if following else 0


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
    is_partial, empty = False, 0
    try:
        for packet in packets_of(video.container, video.stream):
            if packet.size and not packet.is_discard:
                packets.append(_Packet(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe))
                is_partial = packet.is_corrupt
                empty += packet.size >= _BEGINNING and not any(memoryview(packet)[:_BEGINNING])
                _check_count(len(packets), limits)
    except av.FFmpegError as error:
        _check_all_came(video, packets, is_partial, limits)
        raise DecodeError(f"damaged: its packets cannot be read ({error.strerror})") from error
    _check_all_came(video, packets, is_partial, limits)
    if not packets:
        raise DecodeError("its video stream holds no frame")
    if empty and video.stream.codec_context.codec.lossy:  # others may store what is black so
        zeros = f"{empty} of {len(packets)} frames begin with nothing but zeros"
        raise DecodeError(f"damaged: {zeros}: the file was never completed")
    if not video.stream.time_base or (ordered := _in_order_shown(packets)) is None:
        return Index(_timeline(video, [None] * len(packets)), None, ())
    ticks = [packet.shown() for packet in ordered]
    base = float(video.stream.time_base)
    times = _timeline(
        video,
        [float((tick - ticks[0]) * video.stream.time_base) for tick in ticks],
        last_s=ordered[-1].duration * base,
        begin_s=_begin_s(video, ticks[0] * base),
    )
    if any(earlier >= later for earlier, later in pairwise(ticks)):
        return Index(times, None, ())
    seekable = video.container.format.name not in _BROADCAST
    return Index(times, ticks, [n for n, packet in enumerate(ordered) if packet.is_key and seekable])


class _Packet(NamedTuple):
    """Times in ticks of the stream."""

    pts: int | None
    dts: int | None
    duration: int
    is_key: bool

    def shown(self) -> int:
        assert self.pts is not None
        return self.pts


def _in_order_shown(packets: Sequence[_Packet]) -> list[_Packet] | None:
    """None where they do not say when they are shown.

    Where several recordings were put together in one file, the times begin anew with each.
    """
    times = {packet.pts for packet in packets}
    if None in times:
        return None
    if len(times) == len(packets):
        return sorted(packets, key=_Packet.shown)
    decoded = [packet.dts for packet in packets if packet.dts is not None]
    if len(decoded) < len(packets):
        return None
    begins = [index for index, (earlier, later) in enumerate(pairwise(decoded), 1) if later < earlier]
    recordings = pairwise([0, *begins, len(packets)])
    return [packet for begin, end in recordings for packet in sorted(packets[begin:end], key=_Packet.shown)]


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
    with suppress(av.FFmpegError), open_container(video.source, limits) as container:
        others = [other for other in container.streams if other.index != video.stream.index]
        for packet in packets_of(container, *others) if others else ():
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
    longest_s = _LONGEST_PAUSE_S if video.container.format.name in _BROADCAST else math.inf
    return timeline(times, fps=video.fps, tick_s=tick_s, last_s=last_s, begin_s=begin_s, longest_s=longest_s)


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.max_frames:
        raise DecodeError(f"has more than {limits.max_frames:,} frames, which is the limit")


def walk(video: Video, index: Index, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
    """The frames `wanted` (numbers, ascending) of a video just opened. Raises AstrayError where the index misleads."""
    return _walk_by_count(video, index, wanted) if index.ticks is None else _walk_by_time(video, index, wanted)


def _walk_by_time(video: Video, index: Index, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
    assert index.ticks is not None
    frames, at = _all_frames(video), -1
    try:
        for number in wanted:
            key = index.key_before(number)
            if key - at > _WORTH_A_SEEK:
                video.container.seek(index.ticks[key], stream=video.stream)
                frames, at = _all_frames(video), key - 1
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
        for frame in _all_frames(video):
            _check_whole(frame, seen, expected)
            seen += 1
            yield frame
    except av.FFmpegError as error:
        of = f" of {expected}" if expected else ""
        where = f"decoding stops after {seen}{of} frames" if seen else "no frame can be decoded"
        raise DecodeError(f"damaged: {where} ({error.strerror})") from error
    if seen == 0:
        raise DecodeError("damaged: no frame can be decoded")


def _all_frames(video: Video) -> Iterator[VideoFrame]:
    for packet in packets_of(video.container, video.stream):
        yield from packet.decode()


def _check_whole(frame: VideoFrame, number: int, expected: int | None) -> None:
    """ffmpeg fills the holes of a damaged frame with what was there before, and the frames after it build on that."""
    if frame.is_corrupt:
        raise DecodeError(f"damaged: frame {number}{f' of {expected}' if expected else ''} is incomplete")
