"""How a decoded video frame becomes a picture as `ffmpeg -i` shows it: upright, in square pixels, its colours exact.

ffmpeg neither deinterlaces nor maps the tones of HDR by itself, so that is left as it is too, and said.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from umt_ds.data.pixels.picture import UPRIGHT, Turn
from umt_ds.data.pixels.video_open import Limits, Video
from umt_ds.errors import DecodeError

Pixels = NDArray[np.uint8]

# Bicubic is antialiased where it shrinks. Without the other flags ffmpeg converts colours by tables, which makes
# every frame about one level too dark, and repeats chroma samples; BITEXACT: the same on every processor.
_SCALER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
_RGB = 0  # AVCOL_SPC_RGB: the frame is no YUV
# Colour spaces that swscale refuses, and what ffmpeg takes frames for that state them: a reserved number, BT.2020 with
# constant luminance, and what is to be derived from the primaries.
_TAKEN_FOR = {3: Colorspace.ITU601, 10: Colorspace.BT2020, 12: Colorspace.ITU601, 13: Colorspace.ITU601}
# Of one degree: what lies nearer to a quarter turn is one, as ffmpeg has it.
_COTANGENT = 57
# Degrees counter-clockwise, where nothing more can be known of the matrix.
_QUARTER, _HALF = Turn(swaps=True, mirrors=True), Turn(mirrors=True, flips=True)
_OF_ROTATION = {-90: _QUARTER, 180: _HALF, -180: _HALF, 90: Turn(swaps=True, flips=True)}
# A pixel that is more than ten times as wide as high, or the reverse, is damage, and counts as square.
_WIDEST_PIXEL = 10
# What AVColorTransferCharacteristic numbers so. Left as they are, as ffmpeg does: they look flat and dark.
_HDR = {16: "smpte2084", 18: "arib-std-b67"}


def shrunk(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Width and height with the short side at most `short_side`, the aspect kept."""
    if short_side is None or min(height, width) <= short_side:
        return width, height
    scale = short_side / min(height, width)
    return round(width * scale), round(height * scale)


def turn_of(frame: VideoFrame) -> Turn:
    """How the frame's display matrix turns and mirrors it: of its nine numbers the four that mix x and y.

    Damaged matrices, and those more than a degree beside a quarter turn, count as none.
    """
    try:
        matrix = bytes(cast(SideDataContainer, frame.side_data)[Type.DISPLAYMATRIX])
    except KeyError:
        return UPRIGHT
    except ValueError:  # PyAV 18.1 lacks a name for something else that lies beside the frame (EXIF, a second view)
        return _OF_ROTATION.get(frame.rotation, UPRIGHT)
    x_to_x, x_to_y, _, y_to_x, y_to_y, *_ = struct.unpack("=9i", matrix)
    straight, across = (abs(x_to_x), abs(y_to_y)), (abs(x_to_y), abs(y_to_x))
    if min(straight) > _COTANGENT * max(across):
        return Turn(mirrors=x_to_x < 0, flips=y_to_y < 0)
    if min(across) > _COTANGENT * max(straight):
        return Turn(swaps=True, mirrors=y_to_x < 0, flips=x_to_y < 0)
    return UPRIGHT


def degrees(turn: Turn) -> int:
    """The clockwise rotation in a turn."""
    return (90 if turn.swaps else 0) + (180 if turn.flips else 0)


def shown_size(video: Video, frame: VideoFrame, turn: Turn, limits: Limits) -> tuple[int, int]:
    """Width and height as shown: the width times the sample aspect ratio, then turned. Raises DecodeError.

    The ratio is the container's or, where it states none, the codec's, both as they are at the start of the file: PyAV
    does not tell that of a frame, and broadcasts can change it on the way.
    """
    ratio = video.stream.sample_aspect_ratio or video.stream.codec_context.sample_aspect_ratio or Fraction(1)
    if not Fraction(1, _WIDEST_PIXEL) <= ratio <= _WIDEST_PIXEL:
        ratio = Fraction(1)
    width = max(1, int(frame.width * ratio + Fraction(1, 2)))
    if width * frame.height > limits.max_pixels:
        raise DecodeError(f"frames shown as {width}x{frame.height} are above the limit of {limits.max_pixels:,} pixels")
    return turn.size(width, frame.height)


class Picture:
    """Turns decoded frames into pictures: upright, shrunk, and all like the first, whose size and turn decide.

    Sides are multiples of `step`. One conversion does it all: full-size RGB is never made.
    """

    source_size: tuple[int, int] = (0, 0)  # width and height as shown
    size: tuple[int, int] = (0, 0)  # the same, shrunk
    interlaced: bool = False  # any of them
    transfer: str = ""  # where the first is HDR

    def __init__(self, video: Video, short_side: int | None, *, step: int, limits: Limits) -> None:
        self._video, self._short_side, self._step, self._limits = video, short_side, step, limits
        self._turn = UPRIGHT
        self._reformatter = VideoReformatter()

    def rgb(self, frame: VideoFrame) -> Pixels:
        """u8 [H,W,3]."""
        lying = _array(self._scaled(frame, "rgb24"))
        return np.ascontiguousarray(self._turn.upright(lying))

    def yuv(self, frame: VideoFrame) -> VideoFrame:
        """yuv420p in the source's colour space and the range of video (16 to 235)."""
        self._fit(frame)
        if self._turn == UPRIGHT:
            return self._scaled(frame, "yuv420p")
        lying = self._scaled(frame, "yuv444p")
        planes = self._turn.upright(_array(lying).transpose(1, 2, 0)).transpose(2, 0, 1)  # [3,H,W]
        upright = VideoFrame.from_ndarray(np.ascontiguousarray(planes), format="yuv444p")
        upright.colorspace, upright.color_range = lying.colorspace, lying.color_range
        return self._reformatter.reformat(upright, format="yuv420p", interpolation=_SCALER, threads=1)

    def _scaled(self, frame: VideoFrame, format: str) -> VideoFrame:
        """The frame lying as it is stored, in its final size."""
        self._fit(frame)
        if frame.interlaced_frame:
            self.interlaced, frame = True, _as_one_picture(frame)
        width, height = self._turn.size(*self.size)
        space = int(frame.colorspace)
        try:
            return self._reformatter.reformat(
                frame,
                width,
                height,
                format,
                src_colorspace=_TAKEN_FOR.get(space),
                dst_colorspace=Colorspace.ITU601 if space == _RGB else _TAKEN_FOR.get(space),
                dst_color_range=None if format == "rgb24" else ColorRange.MPEG,
                interpolation=_SCALER,
                threads=1,
            )
        except av.FFmpegError as error:
            what = f"frames in {frame.format.name}, colour space {space},"
            raise DecodeError(f"{what} cannot be converted to RGB ({error.strerror})") from error

    def _fit(self, frame: VideoFrame) -> None:
        """The first frame decides."""
        if self.source_size != (0, 0):
            return
        self._turn, self.transfer = turn_of(frame), _HDR.get(int(frame.color_trc), "")
        self.source_size = shown_size(self._video, frame, self._turn, self._limits)
        width, height = shrunk(*self.source_size, self._short_side)
        self.size = (max(self._step, width - width % self._step), max(self._step, height - height % self._step))


def _as_one_picture(frame: VideoFrame) -> VideoFrame:
    """The same frame without the remark that it is interlaced.

    PyAV's scaler would scale the fields apart, which leaves the comb of two moments in a small picture; `ffmpeg -i`
    scales the frame as a whole.
    """
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1)
    )
    remark, sink = graph.add("setfield", "prog"), graph.add("buffersink")
    source.link_to(remark)
    remark.link_to(sink)
    graph.configure()
    graph.vpush(frame)
    return graph.vpull()


def _array(frame: VideoFrame) -> Pixels:
    """Its planes; all formats in use here have 8 bits."""
    return np.asarray(frame.to_ndarray(), np.uint8)
