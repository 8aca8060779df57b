"""From the bytes of a sample's members to frames: uint8 [T,H,W,3], RGB.

Everything that bytes can do wrong ends as DecodeError. Sizes are read before memory is reserved, so a
picture or array that claims to be huge costs nothing.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from tokenize import TokenError

import numpy as np
import simplejpeg
from numpy.lib import format as npy
from numpy.typing import NDArray

from umt_ds.data.pixels.picture import MAX_PIXELS, check_size, is_upright_jpeg, read_image
from umt_ds.errors import DecodeError, shown

Frames = NDArray[np.uint8]
Memory = Callable[[tuple[int, ...]], Frames]  # shape → where to put frames

# What NumPy raises on a damaged header, which it reads as a line of Python.
_BAD_HEADER = (ValueError, SyntaxError, TypeError, EOFError, TokenError, RecursionError, MemoryError)

_END_OF_JPEG = b"\xff\xd9"


@dataclass(frozen=True)
class Jpegs:
    """The encoded frames of a clip, all of one size, for a device to decode. T frames."""

    files: tuple[bytes, ...]  # T
    height: int
    width: int


def as_jpegs(pictures: Sequence[bytes]) -> Jpegs | None:
    """The pictures as they are, if every one is an ordinary JPEG, upright, with its end, of the size of the first.

    None: they are for `decode_pictures`, which can do more, and says what is wrong.
    """
    try:
        headers = {simplejpeg.decode_jpeg_header(picture)[:3] for picture in pictures}
    except ValueError:
        return None
    height, width, colours = next(iter(headers))
    if len(headers) > 1 or colours != "YCbCr" or height * width > MAX_PIXELS:
        return None
    if not all(picture.endswith(_END_OF_JPEG) and is_upright_jpeg(picture) for picture in pictures):
        return None
    return Jpegs(tuple(pictures), height, width)


def new_memory(shape: tuple[int, ...]) -> Frames:
    """Frames of their own."""
    return np.empty(shape, np.uint8)


def decode_pictures(pictures: Sequence[bytes], memory: Memory = new_memory) -> Frames:
    """Encoded pictures that are shown in one size → u8 [T,H,W,3], as `read_image` has them. Raises DecodeError."""
    size = _upright_jpeg_size(pictures[0])
    if size:
        frames = memory((len(pictures), *size, 3))
        _decode_into(pictures[0], frames[0])
    else:  # only what was decoded says how it is shown
        first = read_image(pictures[0])
        frames = memory((len(pictures), *first.shape))
        frames[0] = first
    for picture, frame in zip(pictures[1:], frames[1:], strict=True):
        _decode_into(picture, frame)
    return frames


def decode_array(data: bytes) -> Frames:
    """The bytes of a .npy file → u8 [T,H,W,3], without a copy and never unpickling. Raises DecodeError."""
    shape, begin = array_shape(data)
    body = np.frombuffer(data, np.uint8, offset=begin)
    if body.size != math.prod(shape):
        raise DecodeError(f".npy says {shown(str(shape), 200)} but holds {body.size} bytes")
    return body.reshape(shape)


def array_shape(start: bytes) -> tuple[tuple[int, ...], int]:
    """(T, H, W, 3) of the array whose .npy file begins with `start`, and where in it the pixels begin.

    Raises DecodeError where that is no clip.
    """
    file = io.BytesIO(start)
    try:
        version = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran_order, dtype = read_header(file)
    except _BAD_HEADER as error:
        raise DecodeError(f"not a .npy file: {shown(str(error), 200)}") from error
    if dtype != np.uint8 or fortran_order or len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
        what = shown(f"{dtype} {shape}", 200)
        raise DecodeError(f".npy holds {what}; clips are uint8 [T,H,W,3] in C order")
    return tuple(shape), file.tell()


def _decode_into(data: bytes, frame: Frames) -> None:
    """One picture into `frame`, u8 [H,W,3]."""
    if is_upright_jpeg(data):
        try:
            # the fast DCT is off by up to 89 levels: never use it
            options = {"colorspace": "RGB", "fastdct": False, "fastupsample": False}
            if simplejpeg.decode_jpeg(data, **options, buffer=frame).shape == frame.shape:
                return
        except ValueError:
            pass  # another size, CMYK, or damage that Pillow may still read: it has the last word
    picture = read_image(data)
    if picture.shape != frame.shape:
        raise DecodeError(f"frames of one clip differ in size: {picture.shape[:2]} and {frame.shape[:2]}")
    frame[...] = picture


def _upright_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG that is shown as it is stored, from its header; None for all other pictures."""
    if not is_upright_jpeg(data):
        return None
    try:
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
    except ValueError:
        return None
    check_size(width, height)
    return height, width
