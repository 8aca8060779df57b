"""Frames, times, shape and colours of made videos against ffmpeg's own decoding of them.

Each frame is a slope of colours of its own, six levels of red from the next, so that three levels tell a frame, a turn
and a colour space apart, and not where ffmpeg 5 and 8 think that a sample of chroma lies.

ffmpeg is asked for RGB with the flags of our own conversion. It does not scale by the sample aspect ratio by itself,
so it is told the size in square pixels that the case states: the width times the ratio, turned as it is shown.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from umt_ds.data.pixels.video import Decoded, Limits, decode, probe, transcode
from umt_ds.errors import DecodeError

pytestmark = pytest.mark.skipif(
    not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="ffmpeg and ffprobe are not on PATH"
)
FLAGS = "bicubic+accurate_rnd+full_chroma_int+bitexact"
H264 = "-c:v libx264 -preset ultrafast -crf 12 -g 5 -bf 2"


def run(command: str, *files: object) -> bytes:
    """`command` with a file for each %, and what it wrote."""
    remaining = iter(files)
    words = [str(next(remaining)) if word == "%" else word for word in command.split()]
    return subprocess.run(words, check=True, capture_output=True, timeout=60).stdout


@cache
def slopes(folder: Path, size: str) -> Path:
    """The frames as they are before a case encodes them."""
    path = folder / f"{size}.nut"
    colours = f"color=s={size}:r=10:d=1.2,geq=r='40+2*X+6*N':g='200-2*Y':b='60+X+Y'"
    run("ffmpeg -v error -f lavfi -i % -c:v rawvideo -pix_fmt rgb24 %", colours, path)
    return path


def make(path: Path, options: str, *, size: str = "64x48") -> Path:
    """A video of a dozen frames, by the options of ffmpeg."""
    run(f"ffmpeg -nostdin -v error -y -i % {options} -threads 1 %", slopes(path.parents[1], size), path)
    return path


def with_matrix(plain: Path, path: Path, a: int, b: int, c: int, d: int) -> Path:
    """`plain`, an mp4, with (x,y) → (ax + cy, bx + dy) as its display matrix."""
    data = bytearray(plain.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 4 * 5 + 8 + 4 * 2  # version 0
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def as_ffmpeg(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """All frames, u8 [T,H,W,3], of `size` (width, height)."""
    scaled = f"-sws_flags {FLAGS} -vf scale={size[0]}:{size[1]}:flags={FLAGS} -f rawvideo -pix_fmt rgb24 -"
    shown = run(f"ffmpeg -nostdin -v error -threads 1 -i % -an -vsync passthrough {scaled}", path)
    return np.frombuffer(shown, np.uint8).reshape(-1, size[1], size[0], 3)


def times_of(path: Path) -> list[float]:
    """Seconds of all frames from the first."""
    said = run("ffprobe -v error -select_streams v:0 -show_entries frame=best_effort_timestamp_time -of json %", path)
    times = [float(frame["best_effort_timestamp_time"]) for frame in json.loads(said)["frames"]]
    return [time - times[0] for time in times]


def all_frames(path: Path | bytes) -> Decoded:
    return decode(path, lambda count: list(range(count)))


def compare(path: Path, size: tuple[int, int], *, within: int, timed: bool = True) -> Decoded:
    decoded, expected = all_frames(path), as_ffmpeg(path, size)
    assert (decoded.width, decoded.height) == size
    assert decoded.frames.shape == expected.shape
    off = int(np.abs(decoded.frames.astype(int) - expected).max())
    assert off <= within
    if timed:
        assert decoded.times_s == pytest.approx(times_of(path), abs=2e-3)
    few = [0, len(expected) * 2 // 3, len(expected) - 1]
    np.testing.assert_array_equal(decode(path, few).frames, decoded.frames[few])
    info = probe(path)
    assert (info.width, info.height) == size
    return decoded


@dataclass(frozen=True)
class Case:
    """A video: its name, how ffmpeg makes it, and the size in which it is shown."""

    name: str
    options: str
    size: tuple[int, int] = (64, 48)
    within: int = 3
    of: str = "64x48"
    timed: bool = True


CASES = (
    Case("plain.mp4", f"{H264} -pix_fmt yuv420p"),
    # shape
    Case("wide.mp4", f"{H264} -pix_fmt yuv420p -vf setsar=64/45", (91, 48)),
    Case("wide.mkv", f"{H264} -pix_fmt yuv420p -vf setsar=64/45", (91, 48)),
    Case("narrow.avi", "-c:v mpeg4 -q:v 2 -vf setsar=8/9", (57, 48)),
    Case("dvd.mpg", "-c:v mpeg2video -q:v 2 -r 25 -aspect 16:9", (85, 48), timed=False),
    Case(
        "container_says_else.mp4",
        f"{H264} -pix_fmt yuv420p -aspect 2:1 -bsf:v h264_metadata=sample_aspect_ratio=1/2",
        (96, 48),
    ),
    Case("absurd.mkv", f"{H264} -pix_fmt yuv420p -vf setsar=100/1"),
    Case("odd_size.mkv", "-c:v ffv1 -pix_fmt yuv420p", (65, 49), of="65x49"),
    Case("tiny.mkv", "-c:v ffv1 -pix_fmt yuv444p", (1, 1), of="1x1"),
    # colours
    Case("10bit.mp4", f"{H264} -pix_fmt yuv420p10le"),
    Case("444.mp4", f"{H264} -pix_fmt yuv444p"),
    Case("422_10bit.mkv", "-c:v ffv1 -pix_fmt yuv422p10le"),
    Case("16bit_grey.mkv", "-c:v ffv1 -pix_fmt gray16le"),
    Case("full_range.mp4", f"{H264} -pix_fmt yuvj420p"),
    Case("full_range_tag.mkv", f"{H264} -pix_fmt yuv420p -vf scale=out_range=full -color_range pc"),
    Case("bt709.mp4", f"{H264} -pix_fmt yuv420p -vf scale=out_color_matrix=bt709 -colorspace bt709"),
    Case("bt2020.mp4", f"{H264} -pix_fmt yuv420p10le -vf scale=out_color_matrix=bt2020 -colorspace bt2020nc"),
    Case("bt2020_constant.mkv", "-c:v ffv1 -pix_fmt yuv444p -vf scale=out_color_matrix=bt2020 -colorspace bt2020c"),
    Case("reserved.mp4", f"{H264} -pix_fmt yuv420p -bsf:v h264_metadata=matrix_coefficients=3"),
    Case("rgb.mp4", "-c:v libx264rgb -preset ultrafast -qp 0 -pix_fmt rgb24"),
    Case("gbrp.mkv", "-c:v ffv1 -pix_fmt gbrp"),
    Case("gbrp_10bit.mkv", "-c:v ffv1 -pix_fmt gbrp10le"),
    Case("grey.mp4", f"{H264} -pix_fmt gray"),
    Case(
        "alpha.webm",
        "-c:v libvpx-vp9 -deadline realtime -auto-alt-ref 0 -pix_fmt yuva420p "
        "-vf format=yuva420p,geq=lum='p(X,Y)':cb='cb(X,Y)':cr='cr(X,Y)':a='X*4'",
    ),
    Case("alpha.mov", "-c:v qtrle -pix_fmt argb -vf format=argb,colorchannelmixer=aa=0.5"),
    Case("prores_4444.mov", "-c:v prores_ks -profile:v 4444 -pix_fmt yuva444p10le"),
    Case("palette.gif", "-pix_fmt pal8"),
    Case("palette.avi", "-c:v rawvideo -pix_fmt pal8"),
    Case("mjpeg.avi", "-c:v mjpeg -q:v 2 -pix_fmt yuvj422p"),
    # time and containers
    Case(
        "variable.mp4",
        f"{H264} -pix_fmt yuv420p -vf select='not(eq(mod(n,5),3))',setpts='PTS+gt(N,5)*0.7/TB' -vsync vfr",
    ),
    Case(
        "variable.mkv",
        f"{H264} -pix_fmt yuv420p -vf select='not(eq(mod(n,5),3))',setpts='PTS+gt(N,5)*0.7/TB' -vsync vfr",
    ),
    Case("vp9.webm", "-c:v libvpx-vp9 -deadline realtime -pix_fmt yuv420p"),
    Case("theora.ogv", "-c:v libtheora -q:v 8 -pix_fmt yuv420p"),
    Case("flash.flv", "-c:v flv -q:v 2"),
    Case("windows.asf", "-c:v wmv2 -q:v 2"),
    Case("stream.ts", f"{H264} -pix_fmt yuv420p"),
    Case("raw.h264", f"{H264} -pix_fmt yuv420p", timed=False),
    Case("old.avi", "-c:v mpeg4 -q:v 2 -bf 2", timed=False),
)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_frames_times_shape_and_colours_are_those_of_ffmpeg(case: Case, tmp_path: Path) -> None:
    path = make(tmp_path / case.name, case.options, size=case.of)
    decoded = compare(path, case.size, within=case.within, timed=case.timed)
    assert (decoded.interlaced, decoded.transfer) == (False, "")


# a, b, c, d of a display matrix.
MATRICES = [
    (1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1),
    (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0),
]  # fmt: skip


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("square") / "plain.mp4", f"{H264} -pix_fmt yuv420p")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SampleMeta 91 wide."""
    return make(tmp_path_factory.mktemp("wide") / "wide.mp4", f"{H264} -pix_fmt yuv420p -vf setsar=64/45")


@pytest.mark.parametrize("matrix", MATRICES)
def test_all_eight_display_matrices_turn_and_mirror(square: Path, matrix: tuple[int, ...], tmp_path: Path) -> None:
    path = with_matrix(square, tmp_path / "turned.mp4", *matrix)
    shown = compare(path, (64, 48) if matrix[0] else (48, 64), within=3)
    stored = transcode(path, short_side=48)
    assert (stored.width, stored.height) == (shown.width, shown.height)
    frames = all_frames(stored.data)
    assert np.abs(frames.frames.astype(int) - shown.frames).max() < 12, "lossy"


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, 1), (0, -1, -1, 0)])
def test_pixels_become_square_before_they_are_turned(wide: Path, matrix: tuple[int, ...], tmp_path: Path) -> None:
    path = with_matrix(wide, tmp_path / "turned.mp4", *matrix)
    compare(path, (91, 48) if matrix[0] else (48, 91), within=3)


def test_a_stored_mp4_has_square_pixels(wide: Path) -> None:
    stored = transcode(wide, short_side=48)
    assert (stored.stored_width, stored.stored_height, stored.width, stored.height) == (90, 48, 91, 48)
    assert (probe(stored.data).width, probe(stored.data).height) == (90, 48)


def test_a_matrix_that_is_damaged_or_no_quarter_turn_counts_as_none(square: Path, tmp_path: Path) -> None:
    for matrix in ((0, 0, 0, 0), (1, 1, -1, 1), (1, 0, 0, 0)):
        decoded = all_frames(with_matrix(square, tmp_path / "odd.mp4", *matrix))
        np.testing.assert_array_equal(decoded.frames, all_frames(square).frames)


def test_a_shown_size_above_the_limit_is_refused(wide: Path) -> None:
    limits = Limits(max_pixels=64 * 48 + 1)
    for read in (probe, lambda path, limits: decode(path, [0], limits=limits)):
        with pytest.raises(DecodeError, match="frames shown as 91x48 are above the limit"):
            read(wide, limits=limits)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("top.mpg", "-c:v mpeg2video -q:v 2 -r 25 -flags +ilme+ildct -top 1"),
        ("fields.mp4", f"{H264} -pix_fmt yuv420p -flags +ilme+ildct -x264-params tff=1"),
    ],
)
def test_interlaced_video_comes_as_ffmpeg_shows_it_and_is_said(name: str, options: str, tmp_path: Path) -> None:
    path = make(tmp_path / name, options)
    assert compare(path, (64, 48), within=3, timed=False).interlaced
    assert transcode(path, short_side=48).interlaced


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
@pytest.mark.parametrize(("name", "coder"), [("hdr.mp4", H264), ("hdr.mkv", "-c:v ffv1")])
def test_hdr_video_comes_as_ffmpeg_shows_it_and_is_said(name: str, coder: str, transfer: str, tmp_path: Path) -> None:
    path = make(
        tmp_path / name,
        f"{coder} -pix_fmt yuv420p10le -vf scale=out_color_matrix=bt2020 -colorspace bt2020nc "
        f"-color_primaries bt2020 -color_trc {transfer}",
    )
    assert compare(path, (64, 48), within=3).transfer == transfer
    stored = transcode(path, short_side=48)
    assert stored.transfer == decode(stored.data, [0]).transfer == transfer


def test_an_edit_list_hides_what_ffmpeg_hides(square: Path, tmp_path: Path) -> None:
    path = tmp_path / "edited.mp4"
    run("ffmpeg -nostdin -v error -ss 0.25 -i % -c copy %", square, path)
    assert compare(path, (64, 48), within=3).num_frames < 12


@pytest.mark.parametrize("name", ["cut.mkv", "cut.ts", "cut.mp4", "cut.avi"])
def test_a_cut_end_is_refused_or_gives_the_frames_of_ffmpeg(name: str, tmp_path: Path) -> None:
    whole = make(tmp_path / f"whole_{name}", f"{H264} -pix_fmt yuv420p -movflags +faststart").read_bytes()
    path = tmp_path / name
    for tenth in (4, 6, 8, 9):
        path.write_bytes(whole[: len(whole) * tenth // 10])
        try:
            decoded = all_frames(path)
        except DecodeError:
            continue
        np.testing.assert_allclose(decoded.frames, as_ffmpeg(path, (64, 48)), atol=3)
