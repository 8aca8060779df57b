"""The one door through which a picture file comes in: a stranger's bytes → RGB as a viewer shows it. Torch-free.

Upright by its EXIF orientation, on white where it is transparent, of the levels that its file means (16-bit grey is
no white), the first of several frames. What cannot be read so is refused. H x W pixels.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from umt_ds.errors import DecodeError

Pixels = NDArray[np.uint8]

MAX_PIXELS = 1 << 26  # of a picture or a video frame: 67 million; the largest photographs in CC12M have about 50

# What Pillow may take a file for. Not among them: what runs a program (EPS) or the system's own reader (WMF), what it
# cannot decode without a plug-in (MPEG, HDF5, GRIB, BUFR, FITS), and what is recognised by next to nothing (TGA, PCD).
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "ICNS", "QOI", "SGI", "PCX",
    "DDS", "PSD",
)  # fmt: skip

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it logs, without the file's name, what it then raises


@dataclass(frozen=True)
class Turn:
    """How stored pixels become what is shown: rows and columns change places, or not; then mirrored, or not.

    These are all eight ways in which a picture can lie.
    """

    swaps: bool = False  # what was the left column is the top row
    mirrors: bool = False  # then left becomes right
    flips: bool = False  # and top becomes bottom

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after the turn of what had these before; its own inverse."""
        return (height, width) if self.swaps else (width, height)

    def upright(self, pixels: Pixels) -> Pixels:
        """[H,W,…] as stored → [H,W,…] as shown: a view of the same memory."""
        lying = pixels.swapaxes(0, 1) if self.swaps else pixels
        return lying[:: -1 if self.flips else 1, :: -1 if self.mirrors else 1]


UPRIGHT = Turn()
# The values of the EXIF tag "Orientation". Source: Exif 2.32, section 4.6.4.
_OF_EXIF = {
    1: UPRIGHT,
    2: Turn(mirrors=True),
    3: Turn(mirrors=True, flips=True),
    4: Turn(flips=True),
    5: Turn(swaps=True),
    6: Turn(swaps=True, mirrors=True),
    7: Turn(swaps=True, mirrors=True, flips=True),
    8: Turn(swaps=True, flips=True),
}


def read_image(data: bytes) -> Pixels:
    """A picture file as u8 [H,W,3], RGB, as a viewer shows it. Raises DecodeError for what is none, or is too large."""
    with _opened(data) as image:
        rgb = np.asarray(_as_rgb(image))
        return np.ascontiguousarray(_turn_of(image).upright(rgb))  # asked last: Pillow turns TIFFs while it loads them


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height of a picture file as it is stored; its pixels are not decoded. Raises DecodeError."""
    with _opened(data) as image:
        return image.size


def is_upright_jpeg(data: bytes) -> bool:
    """Is it a JPEG whose pixels are shown as they are stored? Raises DecodeError where its header is damaged.

    Costs microseconds, except in JPEGs that state an orientation.
    """
    if data[:2] != b"\xff\xd8":
        return False
    head = _before_the_scan(data)
    if b"Exif\0\0" not in head and b"tiff:Orientation" not in head:
        return True
    with _opened(data) as image:
        return _turn_of(image) == UPRIGHT


def _before_the_scan(data: bytes) -> bytes:
    """The blocks of a JPEG in front of its pixels; all of it, where they do not follow each other as they should."""
    at = 2
    while data[at : at + 1] == b"\xff" and len(data) > at + 3:
        if data[at + 1] == 0xDA:
            return data[:at]
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return data


def check_size(width: int, height: int) -> None:
    """Raises DecodeError for a picture of more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise DecodeError(f"{width}x{height} is above the limit of {MAX_PIXELS:,} pixels")


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """A picture whose header was read; whatever Pillow's readers raise on it, then or later, ends as DecodeError."""
    if not data:
        raise DecodeError("file is empty (0 bytes)")
    try:
        # Pillow warns of damaged EXIF, odd tags and large pictures, and we say ourselves what matters
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=_formats()) as image:
            check_size(*image.size)
            yield image
    except (DecodeError, MemoryError):
        raise
    except UnidentifiedImageError as error:  # its message holds a memory address
        raise DecodeError("is no picture in any format that is read, or its header is damaged") from error
    except Image.DecompressionBombError as error:
        raise DecodeError(f"picture is above the limit of {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # its readers raise whatever Python raises on the way through a damaged file
        raise DecodeError(f"is no picture that can be decoded: {_reason(error)}") from error


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _reason(error: Exception) -> str:
    """One line, without the memory addresses of Python's objects."""
    line = " ".join(re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "the file", str(error)).split())
    return line or type(error).__name__


def _turn_of(image: Image.Image) -> Turn:
    """What its EXIF (or XMP) says; upright where that is damaged, as viewers do."""
    try:
        return _OF_EXIF.get(image.getexif().get(ExifTags.Base.Orientation, 1), UPRIGHT)
    except Exception:  # the picture is sound, and a damaged remark about it is none
        return UPRIGHT


def _as_rgb(image: Image.Image) -> Image.Image:
    """RGB as it lies, of a picture in any of Pillow's modes."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _of_deep_grey(image)
    if image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
        assert converted is not None  # it changes nothing in place
        return converted
    if image.has_transparency_data:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # premultiplied; Pillow knows no way from here to RGBA
        image = image.convert("LA")
    _state_the_clear_level_in_8_bits(image)
    clear = image.convert("RGBA")
    if image.format in ("BMP", "DIB", "ICO") and clear.getchannel("A").getextrema() == (0, 0):
        return clear.convert("RGB")  # written by programs that leave the fourth byte empty; ffmpeg shows it too
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), clear).convert("RGB")


def _state_the_clear_level_in_8_bits(image: Image.Image) -> None:
    """The level or colour that a PNG says is transparent, as Pillow has its pixels and not, as Pillow 13, as stored."""
    if not isinstance(image, PngImageFile) or not image.tile:
        return
    key = image.info.get("transparency")
    match image.tile[0].args:
        case "L;2" | "L;4" as bits if isinstance(key, int):
            image.info["transparency"] = key * 255 // (3 if bits == "L;2" else 15)
        case "RGB;16B" if isinstance(key, tuple):
            image.info["transparency"] = tuple(level >> 8 for level in key)


def _of_deep_grey(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits: Pillow's own conversion would cut everything above 255 to white."""
    levels = np.asarray(image)  # [H,W] of u16, i32 or f32
    white = _white_level(image)
    lowest, highest = levels.min(), levels.max()
    if not (lowest >= 0 and highest <= white):  # so that NaN is refused too
        raise DecodeError(f"grey levels from {lowest:g} to {highest:g}: only 0 (black) to {white:g} (white) are known")
    if image.mode == "F":
        grey = np.rint(levels * np.float32(255)).astype(np.uint8)
    else:
        grey = ((levels.astype(np.int64) * 255 + white // 2) // white).astype(np.uint8)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(ExifTags.Base.PhotometricInterpretation) == 0:
        grey = 255 - grey  # 0 is white there
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey = np.where(levels == clear, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")


def _white_level(image: Image.Image) -> int:
    """The level that is white. Raises DecodeError where nothing says it."""
    if image.mode == "F":
        return 1
    if not isinstance(image, TiffImageFile):
        return 65535  # PNG, JPEG 2000, and PGM, which Pillow scales to it
    if image.mode == "I":
        raise DecodeError("grey levels that are signed or of 32 bits: which of them is white is not said")
    return int((1 << image.tag_v2[ExifTags.Base.BitsPerSample][0]) - 1)  # 12 or 16 bits
