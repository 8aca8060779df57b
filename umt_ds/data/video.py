"""The one door to decord and PyAV: what a video file says of itself, and chosen frames of it. Torch-free.

`decode` lets decord try first (it seeks) and PyAV where decord cannot (GIF, AV1, no duration, one pixel) or
would deliver other frames than asked (MPEG-1, edit lists). Frames come out as shown: decord turns a rotated
video by itself, for PyAV we turn it here. What only decodes in part is refused, with the number of frames.

Readers are opened, used and closed within one call: a decord reader breaks when threads share it and hangs in
a forked child (seen with decord 0.6.0). Neither library is a safe place for files from strangers: where those
are decoded, do it in a process that may die (`data_prep.engines`).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from umt_ds.errors import DecodeError

try:  # decord has wheels for x86-64 only; elsewhere PyAV decodes everything (a sample's record says who did)
    import decord

    decord.logging.set_level(decord.logging.QUIET)  # its ffmpeg reports every damaged macroblock on stderr
    _DECORD_ERRORS: tuple[type[Exception], ...] = (
        *(decord.DECORDError, decord.DECORDLimitReachedError),
        *(RuntimeError, AssertionError, StopIteration, IndexError),
    )
except ImportError:
    decord = None
    _DECORD_ERRORS = ()

Pixels = NDArray[np.uint8]
Choose = Callable[[int], Sequence[int]]

# Containers of moving pictures. Not among them: playlists (hls, dash, concat, sdp), which make ffmpeg open
# other files and addresses than the one it was given, and single images.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpeg,mpegts,mpegvideo,m4v,asf,ogg,gif,apng,ivf,dv,mxf,nut,"
    "h264,hevc,av1,obu,rm,yuv4mpegpipe"
)
# decord repeats the last good frame in place of frames it cannot decode; above this share it is refused.
_DECORD_REPEATS = 0.01


@dataclass(frozen=True)
class Limits:
    """Sizes above which a file is refused before decoding: a small file can claim an enormous picture."""

    max_bytes: int = 16 << 30
    max_pixels: int = 8192 * 8192  # of one frame
    max_frames: int = 2_000_000  # 18 hours at 30 fps


LIMITS = Limits()


def versions() -> str:
    """The decoders and their versions: they decide the pixels."""
    pyav = f"av {av.__version__}"
    return pyav if decord is None else f"decord {decord.__version__}, {pyav}"


@dataclass(frozen=True)
class VideoInfo:
    """What the container says. `num_frames`, `fps` and `duration_s` are claims, and 0 where it makes none."""

    codec: str
    width: int  # as shown, after `rotation`
    height: int
    rotation: int  # degrees clockwise: 0, 90, 180, 270
    fps: float
    duration_s: float
    num_frames: int


@dataclass(frozen=True)
class Decoded:
    """Chosen frames of a video. T frames."""

    frames: Pixels  # u8 [T,H,W,3], RGB, as shown
    numbers: tuple[int, ...]  # T frame numbers in the video, as chosen
    times_s: tuple[float, ...]  # T times from the first frame
    num_frames: int  # in the whole video, as the decoder counts
    fps: float
    duration_s: float
    width: int  # of the source, as shown
    height: int
    codec: str
    decoder: str  # "decord" or "pyav": they can count frames differently


def probe(source: Path | bytes, *, limits: Limits = LIMITS) -> VideoInfo:
    """What a video file says of itself. Raises DecodeError, with the reason, for what is no video."""
    with _opened(source, limits) as video:
        rotation = 90 * (-_quarter_turns(next(_decoded_frames(video))) % 4)
        width, height = video.stream.codec_context.width, video.stream.codec_context.height
        if rotation % 180:
            width, height = height, width
        return VideoInfo(
            codec=video.stream.codec_context.name,
            width=width,
            height=height,
            rotation=rotation,
            fps=video.fps,
            duration_s=video.duration_s,
            num_frames=video.stream.frames,
        )


def decode(
    source: Path | bytes,
    choose: Sequence[int] | Choose,
    *,
    short_side: int | None = None,
    limits: Limits = LIMITS,
) -> Decoded:
    """Chosen frames of a video, RGB uint8 [T,H,W,3].

    `choose` is a list of frame numbers (any order, repeats allowed) or a function from the number of frames
    in the video to such a list. With `short_side`, larger frames are shrunk to it (bicubic, antialiased) as
    they arrive, so that one full-size frame is in memory at a time; smaller ones are never enlarged.

    Raises DecodeError, with a reason a person understands, for what is no video, damaged, or above `limits`.
    """
    chooser = choose if callable(choose) else lambda _: choose
    with _opened(source, limits) as video:
        fps, stated_s, codec = video.fps, video.stream_s, video.stream.codec_context.name
    picked = _by_either(source, chooser, short_side, limits)
    seconds = 1 / fps if fps else 0.0
    return Decoded(
        frames=np.stack([picked.frames[n] for n in picked.numbers]),
        numbers=picked.numbers,
        times_s=tuple(picked.times_s.get(n, n * seconds) for n in picked.numbers),
        num_frames=picked.num_frames,
        fps=fps,
        duration_s=stated_s or picked.num_frames * seconds,
        width=picked.width,
        height=picked.height,
        codec=codec,
        decoder=picked.decoder,
    )


def shrink(frame: Pixels, short_side: int | None) -> Pixels:
    """`frame` [H,W,3] with its short side at most `short_side`, its aspect kept (bicubic, antialiased)."""
    height, width = frame.shape[:2]
    if short_side is None or min(height, width) <= short_side:
        return frame
    scale = short_side / min(height, width)
    size = (round(width * scale), round(height * scale))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def write_mp4(path: Path, frames: Sequence[Pixels], *, fps: int, gop: int = 12, crf: int = 18) -> None:
    """Encode RGB uint8 frames (even height and width) as H.264 mp4. The same frames give the same bytes."""
    muxing = {"movflags": "+faststart", "fflags": "+bitexact"}
    coding = {"crf": str(crf), "g": str(gop), "preset": "veryfast"}
    # what would change the bytes: threads, version strings, and x264's macroblock tree, which gave other
    # bytes in one run out of three (seen in PyAV 18.1 at 96x96)
    coding |= {"threads": "1", "flags": "+bitexact", "mbtree": "0"}
    with av.open(os.path.abspath(path), "w", format="mp4", container_options=muxing) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options=coding)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


@dataclass(frozen=True)
class _Video:
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
def _opened(source: Path | bytes, limits: Limits) -> Iterator[_Video]:
    """A video after every check that needs no decoding."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size == 0:
        raise DecodeError("file is empty (0 bytes)")
    if size > limits.max_bytes:
        raise DecodeError(f"file has {size:,} bytes, above the limit of {limits.max_bytes:,}")
    try:
        container = av.open(_file(source), "r", options={"format_whitelist": _CONTAINERS}, metadata_errors="ignore")
    except av.FFmpegError as error:
        raise DecodeError(f"not a video container, or its header is damaged ({error.strerror})") from error
    with container:
        video = _Video(container, _video_stream(container))
        _check_limits(video, limits)
        yield video


def _file(source: Path | bytes) -> io.BytesIO | str:
    """An absolute path, because ffmpeg could read a relative one as a protocol (`concat:…`, `http:…`)."""
    return io.BytesIO(source) if isinstance(source, bytes) else os.path.abspath(source)


def _video_stream(container: InputContainer) -> VideoStream:
    """The stream that decord takes as well, to be decoded by one thread: processes are our parallelism."""
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


def _check_limits(video: _Video, limits: Limits) -> None:
    width, height = video.stream.codec_context.width, video.stream.codec_context.height
    if width * height > limits.max_pixels:
        raise DecodeError(f"frames of {width}x{height} are above the limit of {limits.max_pixels:,} pixels")
    frames = max(video.stream.frames, round(video.duration_s * video.fps))
    if frames > limits.max_frames:
        raise DecodeError(f"claims {frames:,} frames, above the limit of {limits.max_frames:,}")


@dataclass(frozen=True)
class _Picked:
    """What a decoder delivered: frames and times by frame number, size as shown."""

    decoder: str
    numbers: tuple[int, ...]
    frames: dict[int, Pixels]
    times_s: dict[int, float]
    num_frames: int
    width: int
    height: int


def _by_either(source: Path | bytes, choose: Choose, short_side: int | None, limits: Limits) -> _Picked:
    if decord is not None:
        with suppress(*_DECORD_ERRORS):
            return _by_decord(source, choose, short_side)
    return _by_pyav(source, choose, short_side, limits)


def _by_decord(source: Path | bytes, choose: Choose, short_side: int | None) -> _Picked:
    """Seek to each chosen frame. Raises one of _DECORD_ERRORS where decord fails or cannot be trusted."""
    reader = decord.VideoReader(_file(source), num_threads=1, fault_tol=_DECORD_REPEATS)
    times = _decord_times(reader)
    numbers = _chosen(choose, len(reader))
    frames: dict[int, Pixels] = {}
    for number in sorted(set(numbers)):
        full: Pixels = reader.get_batch([number]).asnumpy()[0]  # reader[number] would not heed fault_tol
        frames[number] = shrink(full, short_side)
    height, width = full.shape[:2]
    times_s = {number: float(times[number]) for number in numbers}
    return _Picked("decord", numbers, frames, times_s, len(reader), width, height)


def _decord_times(reader: Any) -> NDArray[np.float64]:
    """The time of every frame, from the first. decord seeks by them: where some are missing (it makes up
    -1e14), negative (an edit list hides them) or out of order, it delivers other frames than asked."""
    starts = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
    if starts[0] < 0 or not (np.diff(starts) > 0).all():
        raise RuntimeError("decord cannot tell the frames of this file apart")
    return np.asarray(starts - starts[0])


def _by_pyav(source: Path | bytes, choose: Choose, short_side: int | None, limits: Limits) -> _Picked:
    """Decode from the start up to the last chosen frame.

    The packets say how many frames to expect. Where fewer come out (some packets show nothing), what came
    out is the truth, and the choice is made again.
    """
    with _opened(source, limits) as video:
        expected = _count_packets(video)
    with _opened(source, limits) as video:
        picked = _pick(video, _chosen(choose, expected), expected, short_side)
    if len(picked.frames) < len(set(picked.numbers)):
        with _opened(source, limits) as video:
            picked = _pick(video, _chosen(choose, picked.num_frames), picked.num_frames, short_side)
    return picked


def _count_packets(video: _Video) -> int:
    try:
        packets = video.container.demux(video.stream)
        count = sum(1 for packet in packets if packet.size and not packet.is_discard)
    except av.FFmpegError as error:
        raise DecodeError(f"damaged: its packets cannot be read ({error.strerror})") from error
    if count == 0:
        raise DecodeError("its video stream holds no frame")
    return count


def _pick(video: _Video, numbers: tuple[int, ...], expected: int, short_side: int | None) -> _Picked:
    """The frames `numbers` of `expected`; fewer, and their true count, where the video ends before."""
    wanted, last = set(numbers), max(numbers)
    frames: dict[int, Pixels] = {}
    times: dict[int, float] = {}
    for number, frame in enumerate(_decoded_frames(video, expected)):
        if number == 0:
            size, start = (frame.width, frame.height), frame.time
        if number in wanted:
            full = _as_shown(frame, size)
            frames[number] = shrink(full, short_side)
            if frame.time is not None and start is not None:
                times[number] = max(0.0, frame.time - start)
        if number == last:
            break
    shown = size if _quarter_turns(frame) % 2 == 0 else size[::-1]
    count = expected if number == last else number + 1
    return _Picked("pyav", numbers, frames, times, count, *shown)


def _decoded_frames(video: _Video, expected: int | None = None) -> Iterator[VideoFrame]:
    """The frames of the stream; DecodeError where decoding stops early, or where there is not even one."""
    seen = 0
    of = f" of {expected}" if expected else ""
    try:
        for frame in video.container.decode(video.stream):
            seen += 1
            yield frame
    except av.FFmpegError as error:
        where = f"decoding stops after {seen}{of} frames" if seen else "no frame can be decoded"
        raise DecodeError(f"damaged: {where} ({error.strerror})") from error
    if seen == 0:
        raise DecodeError("damaged: no frame can be decoded")


def _quarter_turns(frame: VideoFrame) -> int:
    """Quarter turns counter-clockwise, as np.rot90 counts, that bring a frame upright.

    A damaged display matrix reads as -2147483648 degrees; that, and odd angles, count as none.
    """
    degrees = int(frame.rotation)
    return (degrees // 90) % 4 if degrees % 90 == 0 and abs(degrees) <= 360 else 0


def _as_shown(frame: VideoFrame, size: tuple[int, int]) -> Pixels:
    """RGB [H,W,3], upright, in the size of the first frame also where the picture size changes on the way."""
    pixels = frame.reformat(width=size[0], height=size[1], format="rgb24").to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, _quarter_turns(frame)))


def _chosen(choose: Choose, count: int) -> tuple[int, ...]:
    numbers = tuple(int(number) for number in choose(count))
    if not numbers:
        raise ValueError(f"no frame was chosen of a video of {count}")
    if min(numbers) < 0 or max(numbers) >= count:
        raise DecodeError(f"frames {min(numbers)} to {max(numbers)} were asked of a video of {count}")
    return numbers
