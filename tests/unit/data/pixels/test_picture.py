"""A stranger's picture: upright, on white, with the levels that its file means, the same for every reader."""

from __future__ import annotations

import ast
import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from data_prep.checking.samples import StoredSample
from tests.support.paths import REPO
from tests.support.shards import write_shards
from umt_ds.data.pixels.decode import as_jpegs, decode_pictures
from umt_ds.data.pixels.picture import FORMATS, read_image
from umt_ds.data.shards.records import load_index
from umt_ds.errors import DecodeError

RED, LIME, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# What is seen in the corners (top left, top right, bottom left, bottom right) of `corners()`, by EXIF orientation.
SHOWN = {
    1: (RED, LIME, BLUE, WHITE),
    2: (LIME, RED, WHITE, BLUE),
    3: (WHITE, BLUE, LIME, RED),
    4: (BLUE, WHITE, RED, LIME),
    5: (RED, BLUE, LIME, WHITE),
    6: (BLUE, RED, WHITE, LIME),
    7: (WHITE, LIME, BLUE, RED),
    8: (LIME, WHITE, RED, BLUE),
}
RAMP16 = np.linspace(0, 65535, 64).round().astype(np.uint16)[None].repeat(16, axis=0)  # [16,64]


def corners(width: int = 64, height: int = 32) -> NDArray[np.uint8]:
    """u8 [H,W,3]: red and lime above blue and white."""
    picture = np.zeros((height, width, 3), np.uint8)
    for (top, left), colour in zip(((0, 0), (0, 1), (1, 0), (1, 1)), (RED, LIME, BLUE, WHITE), strict=True):
        rows, columns = slice(top * height // 2, None), slice(left * width // 2, None)
        picture[rows, columns] = colour
    return picture


def file_of(picture: NDArray[Any] | Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(file, format, **options)
    return file.getvalue()


def with_orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def in_corners(picture: NDArray[np.uint8]) -> list[tuple[int, ...]]:
    seen = (picture[4, 4], picture[4, -5], picture[-5, 4], picture[-5, -5])
    return [tuple(255 * (int(value) > 127) for value in pixel) for pixel in seen]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, bits: int, colours: int, rows: bytes, more: bytes = b"") -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def of_all_readers(data: bytes, folder: Path) -> list[NDArray[np.uint8]]:
    """By preparing, by training, and by what shows and checks finished sets."""
    write_shards(folder, [1], members=lambda _: {"jpg": data})
    (tar,) = folder.glob("*.tar")
    index = load_index(tar)
    sample = StoredSample(tar, index.key(0), tuple(index.members(0)))
    return [read_image(data), decode_pictures([data, data])[1], sample.frames(lambda _: [0])[0]]


@pytest.mark.parametrize("format", ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_reader_shows_a_picture_upright(tmp_path: Path, format: str, orientation: int) -> None:
    exif = with_orientation(orientation)
    data = file_of(corners(), format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    for shown in of_all_readers(data, tmp_path):
        assert shown.shape == ((64, 32, 3) if orientation > 4 else (32, 64, 3))
        assert in_corners(shown) == list(SHOWN[orientation])


def test_an_orientation_that_stands_behind_other_blocks_or_in_xmp_counts_too() -> None:
    plain = file_of(corners(), "JPEG", quality=95)
    exif = file_of(corners(), "JPEG", exif=with_orientation(6))
    start = exif.index(b"\xff\xe1")
    block = exif[start : start + 2 + int.from_bytes(exif[start + 2 : start + 4])]
    filler = b"\xff\xec" + (65_000).to_bytes(2) + bytes(64_998)
    late = plain[:2] + 3 * filler + block + plain[2:]
    thumbnail = b"\xff\xed\x00\x06\xff\xda\xff\xd9"  # of another program, with an end of blocks in it
    odd = plain[:2] + b"\xff" + thumbnail + block + plain[2:]  # and a byte too much between two blocks
    for data in (late, plain[:2] + thumbnail + block + plain[2:], odd):
        assert in_corners(decode_pictures([data])[0]) == list(SHOWN[6])
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><a tiff:Orientation='3'/></x:xmpmeta>"
    said = plain[:2] + b"\xff\xe1" + (len(xmp) + 2).to_bytes(2) + xmp + plain[2:]
    np.testing.assert_array_equal(decode_pictures([said])[0], read_image(said))


def test_a_jpeg_that_lies_on_its_side_is_not_left_to_a_device_and_one_that_says_it_is_upright_is() -> None:
    plain, upright, lying = (file_of(corners(), "JPEG", exif=with_orientation(n)) for n in (0, 1, 6))
    assert as_jpegs([plain, upright]) is not None
    assert as_jpegs([lying]) is None
    assert as_jpegs([plain, lying]) is None


def test_a_damaged_exif_block_is_no_reason_to_lose_the_picture() -> None:
    data = file_of(corners(), "JPEG", exif=b"Exif\0\0nothing of the kind")
    assert in_corners(read_image(data)) == list(SHOWN[1])
    assert in_corners(decode_pictures([data])[0]) == list(SHOWN[1])


def transparent_below(mode: str) -> Image.Image:
    """64 x 32, black above and invisible below, where blue or grey lies hidden."""
    hidden = Image.new("RGBA", (64, 32), (0, 0, 200, 0))
    hidden.paste((0, 0, 0, 255), (0, 0, 64, 16))
    return hidden.convert(mode)


def palette_with_hole() -> bytes:
    image = Image.new("P", (64, 32), 1)
    image.putpalette([0, 0, 0, 0, 0, 200])
    image.paste(0, (0, 0, 64, 16))
    return file_of(image, transparency=1)


def gif_with_hole() -> bytes:
    image = Image.new("P", (64, 32), 1)
    image.putpalette([0, 0, 0, 0, 0, 200])
    image.paste(0, (0, 0, 64, 16))
    return file_of(image, "GIF", transparency=1, save_all=True, append_images=[Image.new("P", (64, 32), 0)])


def keyed_grey(bits: int) -> bytes:
    """A grey PNG whose tRNS chunk makes one level, 77 hundredths of white, invisible."""
    white = (1 << bits) - 1
    pixels = [64 * f"{white * 77 // 100 if row >= 16 else 0:0{bits}b}" for row in range(32)]
    rows = b"".join(b"\0" + int(row, 2).to_bytes(8 * bits) for row in pixels)
    return png(64, 32, bits=bits, colours=0, rows=rows, more=png_chunk(b"tRNS", struct.pack(">H", white * 77 // 100)))


def keyed_colour(bits: int) -> bytes:
    """The same with a colour."""
    size, hidden = bits // 8, [level << (bits - 8) | 0x33 for level in (0x33, 0x70, 0xF0)]
    pixel = b"".join(level.to_bytes(size) for level in hidden)
    rows = b"".join(b"\0" + 64 * (bytes(3 * size) if row < 16 else pixel) for row in range(32))
    return png(64, 32, bits=bits, colours=2, rows=rows, more=png_chunk(b"tRNS", struct.pack(">HHH", *hidden)))


TRANSPARENT: dict[str, Callable[[], bytes]] = {
    "png RGBA": lambda: file_of(transparent_below("RGBA")),
    "png LA": lambda: file_of(transparent_below("LA")),
    "png palette": palette_with_hole,
    "png grey 2": lambda: keyed_grey(2),
    "png grey 4": lambda: keyed_grey(4),
    "png grey 8": lambda: keyed_grey(8),
    "png grey 16": lambda: keyed_grey(16),
    "png colour 8": lambda: keyed_colour(8),
    "png colour 16": lambda: keyed_colour(16),
    "webp": lambda: file_of(transparent_below("RGBA"), "WEBP", lossless=True, exact=True),
    "webp, animated": lambda: file_of(
        transparent_below("RGBA"), "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGBA", (64, 32))]
    ),
    "gif, animated": gif_with_hole,
    "tiff RGBA": lambda: file_of(transparent_below("RGBA"), "TIFF"),
    "tiff LA": lambda: file_of(transparent_below("LA"), "TIFF"),
    "tiff premultiplied": lambda: file_of(transparent_below("RGBA"), "TIFF", tiffinfo={338: 1}),
    "tiff grey, premultiplied": lambda: file_of(transparent_below("LA"), "TIFF", tiffinfo={338: 1}),
    "avif": lambda: file_of(transparent_below("RGBA"), "AVIF"),
    "jpeg 2000": lambda: file_of(transparent_below("RGBA"), "JPEG2000"),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_every_reader_lays_what_is_transparent_on_white(tmp_path: Path, kind: str) -> None:
    for shown in of_all_readers(TRANSPARENT[kind](), tmp_path):
        assert shown.shape == (32, 64, 3)
        assert shown[:12].max() < 8
        assert shown[20:].min() > 247


def test_a_bitmap_whose_fourth_byte_is_empty_is_not_transparent() -> None:
    pixels = b"".join(bytes([*pixel[::-1], 0]) for pixel in corners()[::-1].reshape(-1, 3).tolist())
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    info = struct.pack("<IiiHHIIiiII", 108, 64, 32, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks
    data = b"BM" + struct.pack("<IHHI", 14 + len(info) + len(pixels), 0, 0, 14 + len(info)) + info + pixels
    assert in_corners(read_image(data)) == list(SHOWN[1])


def pgm(levels: NDArray[Any], most: int) -> bytes:
    return b"P5\n%d %d\n%d\n" % (levels.shape[1], levels.shape[0], most) + levels.astype(">u2").tobytes()


def tiff(
    levels: NDArray[Any], *, bits: int, photometric: int = 1, order: Literal["<", ">"] = "<", sample: int = 1
) -> bytes:
    """A grey TIFF of one strip, as `levels` lie in memory (packed where a level has 12 bits)."""
    if bits == 12:
        pairs = levels.reshape(-1, 2).astype(np.uint32)
        packed = pairs[:, 0] << 12 | pairs[:, 1]
        body = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1).astype(np.uint8).tobytes()
    else:
        body = levels.astype(levels.dtype.newbyteorder(order)).tobytes()
    height, width = levels.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: height}
    tags |= {279: len(body), 339: sample}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return head + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + body


DEEP_GREY: dict[str, Callable[[], bytes]] = {
    "png": lambda: file_of(RAMP16),
    "tiff": lambda: tiff(RAMP16, bits=16),
    "tiff, big endian": lambda: tiff(RAMP16, bits=16, order=">"),
    "tiff, 0 is white": lambda: tiff(65535 - RAMP16, bits=16, photometric=0),
    "tiff, 12 bits": lambda: tiff(RAMP16 >> 4, bits=12),
    "tiff, float": lambda: tiff((RAMP16 / 65535).astype(np.float32), bits=32, sample=3),
    "tiff, compressed": lambda: file_of(RAMP16, "TIFF", compression="tiff_deflate"),
    "pgm": lambda: pgm(RAMP16, 65535),
    "pgm, 12 bits": lambda: pgm(RAMP16 >> 4, 4095),
    "pfm": lambda: b"Pf\n64 16\n-1.0\n" + (RAMP16 / 65535).astype("<f4").tobytes(),
    "jpeg 2000": lambda: file_of(RAMP16, "JPEG2000"),
}


@pytest.mark.parametrize("kind", DEEP_GREY)
def test_grey_of_more_than_8_bits_keeps_its_levels(tmp_path: Path, kind: str) -> None:
    expected = np.rint(RAMP16 / 257)[:, :, None].repeat(3, axis=2)  # u16: 65535 is white, as 255 is
    for shown in of_all_readers(DEEP_GREY[kind](), tmp_path):
        assert np.abs(shown - expected).max() <= 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(RAMP16.astype(np.int32) * 9, bits=32), "which of them is white is not said"),
        (tiff(RAMP16.astype(np.int16), bits=16, sample=2), "which of them is white is not said"),
        (
            tiff(np.full((4, 4), 200, np.float32), bits=32, sample=3),
            "from 200 to 200: only 0",
        ),
        (tiff(np.full((4, 4), np.nan, np.float32), bits=32, sample=3), "from nan to nan"),
    ],
)
def test_grey_of_unknown_levels_is_refused_and_not_made_white(data: bytes, reason: str) -> None:
    for read in (read_image, lambda file: decode_pictures([file])):
        with pytest.raises(DecodeError, match=reason):
            read(data)


def lab() -> bytes:
    rgb, of_lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(Image.fromarray(corners()), rgb, of_lab, outputMode="LAB")
    assert image is not None
    return file_of(image, "TIFF")


@pytest.mark.parametrize(
    "data",
    [
        file_of(Image.fromarray(corners()).convert("CMYK"), "TIFF"),
        file_of(Image.fromarray(corners()).convert("CMYK"), "JPEG", quality=95),
        file_of(Image.fromarray(corners()).convert("YCbCr"), "TIFF"),
        file_of(Image.fromarray(corners()).convert("P"), "GIF"),
        file_of(corners(), "PPM"),
        lab(),
        png(2, 2, bits=16, colours=2, rows=(b"\0" + 2 * b"\xff\xff\0\0\0\0") * 2),
    ],
    ids=["cmyk tiff", "cmyk jpeg", "ycbcr", "gif", "ppm", "lab", "png of 48 bits"],
)
def test_other_colours_become_rgb(tmp_path: Path, data: bytes) -> None:
    for shown in of_all_readers(data, tmp_path):
        assert tuple(shown[0, 0] > 127) == (True, False, False)
        if shown.shape == (32, 64, 3):
            assert in_corners(shown) == list(SHOWN[1])


def test_one_bit_is_black_and_white() -> None:
    board = np.indices((16, 16)).sum(0) % 2 > 0
    np.testing.assert_array_equal(read_image(file_of(Image.fromarray(board)))[:, :, 0], board * np.uint8(255))


def test_of_several_pictures_the_first_is_shown(tmp_path: Path) -> None:
    second = Image.fromarray(255 - corners())
    for format in ("GIF", "PNG", "WEBP", "TIFF", "MPO"):
        data = file_of(corners(), format, save_all=True, append_images=[second])
        for shown in of_all_readers(data, tmp_path / format):
            assert in_corners(shown) == list(SHOWN[1])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"^file is empty \(0 bytes\)$"),
        (b"hello", "^is no picture in any format that is read, or"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "^is no picture in any format that is read, or",
        ),
        (b"\xff\xd8", "^is no picture"),
        (file_of(corners())[:-40], "^is no picture that can be decoded: "),
        (file_of(corners(), "JPEG")[:300], "^is no picture"),
        (png(60_000, 60_000, bits=8, colours=2, rows=b""), "^picture is above the limit of 67,108,864 pixels$"),
        (png(10_000, 10_000, bits=8, colours=2, rows=b""), "^10000x10000 is above the limit of 67,108,864 pixels$"),
    ],
)
def test_what_is_refused_says_why_in_one_line_without_addresses(data: bytes, reason: str) -> None:
    for read in (read_image, lambda file: decode_pictures([file])):
        with pytest.raises(DecodeError, match=reason) as refused:
            read(data)
        assert not re.search("0x[0-9a-f]{6}|\n", refused.value.what)


def test_a_huge_jpeg_is_refused_by_its_header() -> None:
    data = bytearray(file_of(corners(), "JPEG"))
    size = data.index(b"\xff\xc0") + 5
    data[size : size + 4] = struct.pack(">HH", 60_000, 2_000)
    for read in (read_image, lambda file: decode_pictures([file])):
        with pytest.raises(DecodeError, match="2000x60000 is above the limit"):
            read(bytes(data))


def test_pictures_are_opened_nowhere_else_and_never_as_programs() -> None:
    openers = [
        path.relative_to(REPO).as_posix()
        for folder in ("umt_ds", "data_prep")
        for path in (REPO / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "Image.open"
    ]
    assert openers == ["umt_ds/data/pixels/picture.py"]
    assert not {"EPS", "WMF"} & set(FORMATS)
