"""A video file from a stranger, opened after every check that needs no decoding; which of its streams is the film."""

from __future__ import annotations

import io
import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from umt_ds.data.pixels.picture import MAX_PIXELS
from umt_ds.data.pixels.video_cut import INDEX_IS_GONE, lacks_its_index, size_of
from umt_ds.data.pixels.video_timeline import Timeline
from umt_ds.errors import DecodeError

# Containers of moving pictures. Not among them: playlists (hls, dash, concat, sdp), which make ffmpeg open
# other files and addresses than the one it was given, and single images.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpeg,mpegts,mpegvideo,m4v,asf,ogg,gif,apng,ivf,dv,mxf,nut,"
    "h264,hevc,av1,obu,rm,yuv4mpegpipe"
)
# What streams say of their length and what their frames show differ by this much in good files.
_SAME_LENGTH_S = 0.5
# A film has more than this many frames for each of its thumbnails.
_PER_THUMBNAIL = 10


@dataclass(frozen=True)
class Limits:
    """Sizes above which a file is refused, by what it claims and again by what it delivers while it is decoded."""

    max_bytes: int = 16 << 30
    max_pixels: int = MAX_PIXELS  # of one frame, as stored and as shown
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
        """A live recording can have a number in place of what was not known yet, a damaged one a length below zero: as
        many frames would not fit into the file."""
        return 0 <= frames <= size_of(self.source)

    def shown_s(self, timeline: Timeline) -> float:
        """How long the video is: what the stream says, unless that is of something else (in asf, of the longest)."""
        stated = self.stream_s
        if timeline.rate == 0:
            return stated or timeline.duration_s
        least, seen = timeline.seconds[-1] - timeline.seconds[0], timeline.duration_s
        return stated if least < stated and abs(stated - seen) <= _SAME_LENGTH_S else seen


@contextmanager
def opened(source: Path | bytes, limits: Limits) -> Iterator[Video]:
    """A video after every check that needs no decoding. Raises OSError where the system does not let it be read."""
    if not isinstance(source, bytes):
        _check_readable(source)
    size = size_of(source)
    if size == 0:
        raise DecodeError("file is empty (0 bytes)")
    if size > limits.max_bytes:
        raise DecodeError(f"file has {size:,} bytes, above the limit of {limits.max_bytes:,}")
    with open_container(source, limits) as container:
        video = Video(source, container, _film(source, container, limits))
        _check_limits(video, limits)
        # a stream can grow its frames on the way: the decoder then stops before it takes the memory
        video.stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
        yield video


def _check_readable(file: Path) -> None:
    """ffmpeg would call damaged what may not be read."""
    if not stat.S_ISREG(file.stat().st_mode):  # to open a pipe waits for whoever writes to it
        raise DecodeError("is a folder, pipe or device and no file")
    with file.open("rb") as content:
        content.read(1)


def open_container(source: Path | bytes, limits: Limits) -> InputContainer:
    """Raises DecodeError for what is no container of moving pictures."""
    # a relative path could be read as a protocol (`concat:…`, `http:…`)
    file = io.BytesIO(source) if isinstance(source, bytes) else os.path.abspath(source)
    try:
        options = {"format_whitelist": _CONTAINERS, "max_pixels": str(limits.max_pixels)}
        return av.open(file, "r", options=options, metadata_errors="ignore")
    except av.FFmpegError as error:
        raise _unusable(source, f"not a video container, or its header is damaged ({error.strerror})") from error


def packets_of(container: InputContainer, *streams: Stream) -> Iterator[Packet[Any]]:
    """All packets of some streams; after them one without content of each, which makes a decoder give its last frames.

    PyAV 18.1 adds one for streams too that appeared on the way, as in recordings of several programmes, fails, as it
    does not know them, and does so or not by what lies in memory.
    """
    with suppress(IndexError):
        yield from container.demux(*streams)


def _unusable(source: Path | bytes, reason: str) -> DecodeError:
    """For `reason`, or because it is an mp4 whose index, or a part of it, is gone, which shows in many ways."""
    return DecodeError(INDEX_IS_GONE if lacks_its_index(source) else reason)


def _film(source: Path | bytes, container: InputContainer, limits: Limits) -> VideoStream:
    """The video stream that ffmpeg would show, to be decoded by one thread: processes are our parallelism."""
    kinds = {stream.type for stream in container.streams}
    if not kinds:
        raise _unusable(source, "no streams: the container is empty")
    films = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not films:
        others = " and ".join(sorted(kinds - {"video"})) or "a cover picture"
        raise _unusable(source, f"no video stream ({others} only)")
    stream = films[0] if len(films) == 1 else max(_moving(source, films, limits), key=_rank)
    if stream.codec_context is None:
        raise _unusable(source, "no decoder knows its video codec")
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
    with suppress(av.FFmpegError), open_container(source, limits) as container:
        for packet in packets_of(container, *(container.streams[stream.index] for stream in undeclared)):
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
