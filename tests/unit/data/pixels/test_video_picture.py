"""What becomes of a decoded frame: turned and mirrored, in square pixels, and what is said of it."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_prep.checking.stats import collect_stats, remarks, table, write_stats
from data_prep.clip import Clip, Sample, StoreOptions
from data_prep.decode import make_sample
from tests.support.shards import write_shards
from umt_ds.data.pixels.video import decode, probe, transcode

RED, LIME, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# What is seen in the corners (top left, top right, bottom left, bottom right), by a, b, c, d of the display matrix:
# (x,y) is shown at (ax + cy, bx + dy).
SHOWN: dict[tuple[int, ...], tuple[tuple[int, ...], ...]] = {
    (1, 0, 0, 1): (RED, LIME, BLUE, WHITE),
    (-1, 0, 0, 1): (LIME, RED, WHITE, BLUE),
    (1, 0, 0, -1): (BLUE, WHITE, RED, LIME),
    (-1, 0, 0, -1): (WHITE, BLUE, LIME, RED),
    (0, 1, 1, 0): (RED, BLUE, LIME, WHITE),
    (0, 1, -1, 0): (BLUE, RED, WHITE, LIME),
    (0, -1, 1, 0): (LIME, WHITE, RED, BLUE),
    (0, -1, -1, 0): (WHITE, LIME, BLUE, RED),
}
ROTATION: dict[tuple[int, ...], int] = {(1, 0, 0, 1): 0, (0, 1, -1, 0): 90, (-1, 0, 0, -1): 180, (0, -1, 1, 0): 270}


def corners() -> NDArray[np.uint8]:
    """u8 [48,64,3]: red and lime above blue and white."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32], picture[24:, 32:] = RED, LIME, BLUE, WHITE
    return picture


def in_corners(picture: NDArray[np.uint8]) -> tuple[tuple[int, ...], ...]:
    seen = (picture[4, 4], picture[4, -5], picture[-5, 4], picture[-5, -5])
    return tuple(tuple(255 * (int(value) > 127) for value in pixel) for pixel in seen)


def write(path: Path, *, matrix: tuple[int, ...] | None = None, ratio: Fraction | None = None, **context: Any) -> Path:
    """Three equal frames of `corners()`, H.264."""
    options = {"crf": "8", **context.pop("options", {})}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        if ratio:
            stream.codec_context.sample_aspect_ratio = ratio
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        if matrix:
            a, b, c, d = (number << 16 for number in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(corners(), format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("matrix", SHOWN)
def test_all_eight_display_matrices_turn_and_mirror(tmp_path: Path, matrix: tuple[int, ...]) -> None:
    path = write(tmp_path / "v.mp4", matrix=matrix)
    decoded, info, stored = decode(path, [1]), probe(path), transcode(path, short_side=48)
    size = (64, 48) if matrix[0] else (48, 64)
    assert in_corners(decoded.frames[0]) == SHOWN[matrix]
    assert in_corners(decode(stored.data, [1]).frames[0]) == SHOWN[matrix]
    for said in (decoded, info, stored):
        assert (said.width, said.height) == size
    assert info.rotation == ROTATION.get(matrix, info.rotation)


@pytest.mark.parametrize(("ratio", "width"), [(Fraction(64, 45), 91), (Fraction(8, 9), 57), (Fraction(40, 1), 64)])
def test_pixels_become_square_in_whatever_is_stored(tmp_path: Path, ratio: Fraction, width: int) -> None:
    path = write(tmp_path / "v.mp4", ratio=ratio)
    assert decode(path, [1]).frames.shape == (1, 48, width, 3)
    assert (probe(path).width, probe(path).height) == (width, 48)
    stored = transcode(path, short_side=48)
    assert decode(stored.data, [1]).frames.shape == (1, 48, width - width % 2, 3)


def test_the_width_is_stretched_before_the_turn(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", ratio=Fraction(2), matrix=(0, 1, -1, 0))
    assert decode(path, [1]).frames.shape == (1, 128, 48, 3)
    assert decode(path, [1], short_side=24).frames.shape == (1, 64, 24, 3)


def test_frames_that_carry_their_own_exif_are_turned_too(tmp_path: Path) -> None:
    """PyAV 18.1 cannot say what lies beside such a frame, only its rotation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(corners()).save(file, "JPEG", exif=exif, quality=95)
    path = tmp_path / "camera.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(3):
            packet = av.Packet(file.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 10)
            container.mux(packet)
    assert in_corners(decode(path, [1]).frames[0]) == SHOWN[0, 1, -1, 0]


INTERLACED: dict[str, Any] = {"options": {"x264-params": "tff=1", "flags": "+ilme+ildct"}}
HDR: dict[str, Any] = {"color_trc": 16, "colorspace": 9, "color_primaries": 9}  # PQ and BT.2020


def json_of(path: Path) -> dict[str, Any]:
    made = make_sample(Clip("k", path.name), root=path.parent, media="video", store=StoreOptions(frames=2))
    assert isinstance(made, Sample)
    record = json.loads(made.members["json"])
    assert isinstance(record, dict)
    return record


def test_what_is_interlaced_or_hdr_is_said_of_the_sample_and_nothing_of_others(tmp_path: Path) -> None:
    plain = json_of(write(tmp_path / "plain.mp4"))
    assert not {"interlaced", "transfer"} & set(plain)
    assert json_of(write(tmp_path / "fields.mp4", **INTERLACED)).items() >= {"interlaced": True}.items()
    assert json_of(write(tmp_path / "hdr.mp4", **HDR)).items() >= {"transfer": "smpte2084"}.items()


def test_a_set_says_how_many_are_interlaced_or_hdr(tmp_path: Path) -> None:
    records = [{}, {"interlaced": True}, {"interlaced": True}, {"transfer": "smpte2084"}, {"transfer": "arib-std-b67"}]
    write_shards(tmp_path, [5], members=lambda n: {"000.jpg": b"-", "json": json.dumps(records[n]).encode()})
    write_stats(tmp_path)
    stats = collect_stats(tmp_path)
    assert (stats["interlaced"], stats["transfer"]) == ({"yes": 2}, {"arib-std-b67": 1, "smpte2084": 1})
    assert "transfer (2)        arib-std-b67 1, smpte2084 1" in table(stats)
    assert remarks(tmp_path) == [
        "2 interlaced, stored with both fields in each frame",
        "1 HDR (arib-std-b67), stored without tone mapping",
        "1 HDR (smpte2084), stored without tone mapping",
    ]
