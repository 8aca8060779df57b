"""Any bytes, and damaged pictures of every format: RGB of some size, the same for every reader, or a DecodeError."""

from __future__ import annotations

import io
import re
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from umt_ds.data.pixels.decode import as_jpegs, decode_pictures
from umt_ds.data.pixels.picture import MAX_PIXELS, read_image
from umt_ds.errors import DecodeError

KINDS = [
    ("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("MPO", "RGB"), ("PNG", "RGBA"), ("PNG", "I;16"), ("PNG", "P"),
    ("PNG", "1"), ("WEBP", "RGBA"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGBA"), ("TIFF", "I;16"), ("TIFF", "F"),
    ("TIFF", "LAB"), ("TIFF", "CMYK"), ("PPM", "RGB"), ("PPM", "I;16"), ("PPM", "F"), ("AVIF", "RGBA"),
    ("JPEG2000", "RGBA"), ("ICO", "RGBA"), ("ICNS", "RGBA"), ("QOI", "RGB"), ("SGI", "RGB"), ("PCX", "P"),
    ("DDS", "RGBA"),
]  # fmt: skip


@cache
def sound(format: str, mode: str, orientation: int) -> bytes:
    """A small file of a kind."""
    levels = np.add.outer(np.arange(24), np.arange(20)).astype(np.uint8) * 5
    if mode == "I;16":
        image = Image.fromarray(levels.astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray((levels / 255).astype(np.float32))
    elif mode == "LAB":
        image = Image.merge("LAB", [Image.fromarray(levels)] * 3)
    else:
        image = Image.fromarray(levels).convert("RGB").convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, format, **({"exif": exif} if format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") else {}))
    return file.getvalue()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A file of some kind with bytes changed, taken out or put in, mostly near its front, and perhaps cut off."""
    data = bytearray(sound(*draw(st.sampled_from(KINDS)), draw(st.integers(0, 9))))
    for _ in range(draw(st.integers(0, 4))):
        most = draw(st.sampled_from([64, 300, len(data)]))
        at = draw(st.integers(0, max(0, min(most, len(data)) - 1)))
        taken = draw(st.sampled_from([1, 1, 2, 4, 0]))
        data[at : at + taken] = draw(st.binary(min_size=0 if taken != 1 else 1, max_size=max(taken, 1)))
    return bytes(data[: draw(st.none() | st.integers(0, len(data)))])


def outcome(data: bytes) -> NDArray[np.uint8] | None:
    """None where it is refused, in one line and without memory addresses."""
    try:
        picture = read_image(data)
    except DecodeError as error:
        reason = error.what
    else:
        return checked(picture)
    assert re.fullmatch(r"[^\n]+", reason)
    assert " at 0x" not in reason
    return None


def checked(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    height, width, colours = picture.shape
    assert colours == 3
    assert 0 < height * width <= MAX_PIXELS
    return picture


@given(damaged() | st.binary(max_size=99))
def test_every_reader_gives_the_same_picture_or_refuses_it(data: bytes) -> None:
    expected = outcome(data)
    if expected is None:
        with pytest.raises(DecodeError):
            decode_pictures([data])
        assert (as_jpegs([data]) is None) or data.startswith(b"\xff\xd8"), "only pixels may be damaged, not the header"
        return
    for frame in decode_pictures([data, data]):
        assert frame.shape == expected.shape
        assert np.abs(frame.astype(int) - expected).max() <= 2
    if jpegs := as_jpegs([data]):
        assert (jpegs.height, jpegs.width) == expected.shape[:2]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: " ".join(kind))
def test_what_is_not_damaged_is_read(kind: tuple[str, str]) -> None:
    assert outcome(sound(*kind, 1)) is not None
