"""The video door: the right frames, upright; a small mp4 of a video; a reason for everything else."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from tests.support.paths import REPO, SHARED
from tests.support.videos import frame_number, write_audio_only, write_video
from umt_ds.data.pixels.video import Limits, decode, probe, shrink, transcode, write_mp4
from umt_ds.errors import DecodeError

ODD = SHARED / "data" / "odd"
needs_odd = pytest.mark.skipif(not ODD.is_dir(), reason=f"{ODD} is not there")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4")


def test_frames_are_those_asked_for_in_the_order_asked(clip: Path) -> None:
    decoded = decode(clip, [7, 0, 11, 7])
    assert [frame_number(frame) for frame in decoded.frames] == [7, 0, 11, 7]
    assert decoded.numbers == (7, 0, 11, 7)
    assert decoded.times_s == pytest.approx([0.7, 0.0, 1.1, 0.7], abs=1e-3)


def test_a_function_chooses_by_the_number_of_frames(clip: Path) -> None:
    decoded = decode(clip, lambda count: [count - 1])
    assert (decoded.num_frames, decoded.numbers) == (12, (11,))
    assert frame_number(decoded.frames[0]) == 11


def test_bytes_decode_like_the_file(clip: Path) -> None:
    np.testing.assert_array_equal(decode(clip.read_bytes(), [3]).frames, decode(clip, [3]).frames)


def test_what_is_said_of_the_source(clip: Path) -> None:
    decoded, info = decode(clip, [0]), probe(clip)
    for said in (decoded, info):
        assert (said.width, said.height, said.codec, said.num_frames) == (64, 48, "h264", 12)
        assert (said.fps, said.duration_s) == pytest.approx((10, 1.2))
    assert info.rotation == 0


@pytest.mark.parametrize(("degrees", "clockwise", "corner"), [(-90, 90, "right"), (90, 270, "left")])
def test_a_rotated_video_is_turned_once(tmp_path: Path, degrees: int, clockwise: int, corner: str) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :16] = 255  # a white corner, stored top left
    path = write_video(tmp_path / "r.mp4", rotation=degrees, pictures=[picture] * 3)
    decoded, info = decode(path, [1]), probe(path)
    assert decoded.frames.shape == (1, 64, 48, 3)
    assert (decoded.width, decoded.height, info.width, info.height) == (48, 64, 48, 64)
    assert info.rotation == clockwise
    frame = decoded.frames[0]
    white = {"right": frame[:12, -12:], "left": frame[-12:, :12]}  # turned clockwise: top right
    assert white[corner].min() > 200
    assert frame.mean() < 60


def test_upside_down_is_turned(tmp_path: Path) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :16] = 255
    path = write_video(tmp_path / "r.mp4", rotation=180, pictures=[picture] * 3)
    assert decode(path, [1]).frames[0, -12:, -12:].min() > 200


def test_large_frames_are_shrunk_to_the_short_side_and_small_ones_left(clip: Path) -> None:
    assert decode(clip, [0], short_side=24).frames.shape == (1, 24, 32, 3)
    assert decode(clip, [0], short_side=480).frames.shape == (1, 48, 64, 3)
    assert decode(clip, [0], short_side=24).width == 64  # the source's


def test_shrinking_averages_instead_of_picking_pixels() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    small = shrink(stripes, 16)
    assert abs(small[4:-4, 4:-4].astype(int) - 100).max() <= 3  # picking would give 0 or 200


def test_reading_the_same_file_twice_gives_the_same_pixels(clip: Path) -> None:
    np.testing.assert_array_equal(decode(clip, range(12)).frames, decode(clip, range(12)).frames)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("empty.mp4", b"", "empty"),
        ("text.mp4", b"this is no video at all" * 40, "not a video container"),
        ("picture.mp4", b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(200), "not a video container"),
    ],
)
def test_what_is_no_video_is_refused_with_the_reason(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(DecodeError, match=reason):
            decode(source, [0])
        with pytest.raises(DecodeError, match=reason):
            probe(source)


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="no video stream \\(audio only\\)"):
        decode(write_audio_only(tmp_path / "a.mp4"), [0])


@pytest.mark.parametrize("playlist", ["#EXTM3U\n#EXTINF:1.0,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n"])
def test_a_playlist_cannot_open_other_files(clip: Path, tmp_path: Path, playlist: str) -> None:
    path = tmp_path / "playlist.mp4"
    path.write_text(playlist.format(clip))
    with pytest.raises(DecodeError, match="not a video container"):
        decode(path, [0])


def test_a_missing_file_is_not_a_bad_video(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        decode(tmp_path / "gone.mp4", [0])


def test_frames_beyond_the_end_are_refused(clip: Path) -> None:
    with pytest.raises(DecodeError, match="asked of a video of 12"):
        decode(clip, [12])


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(max_bytes=100), "bytes, above the limit of 100"),
        (Limits(max_pixels=3000), "frames of 64x48 are above"),
        (Limits(max_frames=11), "claims 12 frames"),
    ],
)
def test_absurd_sizes_are_refused_before_decoding(clip: Path, limits: Limits, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(clip, [0], limits=limits)
    with pytest.raises(DecodeError, match=reason):
        probe(clip, limits=limits)


def test_a_file_that_was_cut_off_is_refused_or_short_but_never_padded(tmp_path: Path) -> None:
    path = write_video(tmp_path / "whole.mkv", frames=30)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    try:
        decoded = decode(cut, lambda count: list(range(count)))
    except DecodeError:
        return
    assert decoded.num_frames < 30
    assert [frame_number(frame) for frame in decoded.frames] == list(range(decoded.num_frames))


def test_packets_that_show_nothing_are_not_counted_as_frames(clip: Path, tmp_path: Path) -> None:
    """Cut before its second key frame (frame 5), a video still holds the packets of frames 1 to 4."""
    cut = tmp_path / "cut.mp4"
    with av.open(str(clip)) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if number > 0 and packet.size:
                packet.stream = stream
                target.mux(packet)
    decoded = decode(cut, lambda count: list(range(count)))
    assert [frame_number(frame) for frame in decoded.frames] == [5, 6, 7, 8, 9, 10, 11]
    assert decoded.num_frames == 7
    assert decoded.times_s == pytest.approx([0.1 * n for n in range(7)], abs=1e-3)


def test_colours_are_exact_and_shrinking_is_antialiased_while_decoding(tmp_path: Path) -> None:
    """ffmpeg's quick conversion makes every frame about one level too dark."""
    ramp = np.repeat(np.arange(32, 224, 3, dtype=np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    path = write_video(tmp_path / "v.mp4", size=(64, 64), pictures=[ramp, stripes])
    with av.open(str(path)) as container:
        luma = np.array(next(container.decode(video=0)).to_ndarray()[:64, :64], float)
    shown = decode(path, [0]).frames[0].mean(axis=2)
    assert np.abs(shown - (luma - 16) * 255 / 219).max() < 1
    small = decode(path, [1], short_side=16).frames[0]
    assert abs(small[4:-4, 4:-4].astype(int) - 100).max() <= 6, "picking pixels would give 0 or 200"


def test_a_transcoded_video_holds_the_frames_it_names(clip: Path, tmp_path: Path) -> None:
    small = transcode(clip, short_side=24)
    assert (small.numbers, small.num_frames) == (tuple(range(12)), 12)
    assert (small.stored_width, small.stored_height, small.stored_fps) == (32, 24, 10)
    assert (small.width, small.height, small.fps, small.codec) == (64, 48, 10, "h264")
    decoded = decode(small.data, range(12))
    assert [frame_number(frame) for frame in decoded.frames] == list(range(12))
    assert decoded.times_s == pytest.approx(small.times_s, abs=1e-3)


def test_a_span_is_transcoded_at_a_lower_rate_but_never_at_a_higher_one(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", frames=40)
    part = transcode(path, short_side=48, fps=5, span_s=(1.0, 2.0))
    assert part.numbers == (10, 12, 14, 16, 18)
    assert part.times_s == pytest.approx([1.0, 1.2, 1.4, 1.6, 1.8])
    decoded = decode(part.data, lambda count: list(range(count)))
    assert [frame_number(frame) for frame in decoded.frames] == [10, 12, 14, 16, 18]
    assert decoded.times_s == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    assert transcode(path, short_side=48, fps=60).numbers == tuple(range(40))
    with pytest.raises(DecodeError, match=r"lasts 4\.0 s and has no frame at 9 s"):
        transcode(path, short_side=48, span_s=(9.0, 10.0))


def test_a_varying_rate_becomes_constant_and_the_numbers_say_which_frames_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "vfr.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number, tick in enumerate([0, 1, 2, 3, 8, 9]):  # tenths of a second; the last lasts one
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 + 6 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    small = transcode(path, short_side=48)
    assert small.stored_fps == pytest.approx(6)  # 6 frames in 1 s: at 0, 1/6, … the nearest are
    assert small.numbers == (0, 2, 3, 3, 4, 4)
    frames = decode(small.data, lambda count: list(range(count))).frames
    assert [frame_number(frame) for frame in frames] == [0, 2, 3, 3, 4, 4]


def test_a_transcoded_video_is_upright_with_even_sides_and_no_sound(tmp_path: Path) -> None:
    picture = np.zeros((50, 66, 3), np.uint8)
    picture[:16, :16] = (255, 0, 0)
    path = write_video(tmp_path / "r.mp4", size=(66, 50), rotation=-90, pictures=[picture] * 3)
    small = transcode(path, short_side=33)
    assert (small.stored_width, small.stored_height, small.width, small.height) == (32, 44, 50, 66)
    assert probe(small.data).rotation == 0
    corner = decode(small.data, [1]).frames[0, :8, -8:].reshape(-1, 3).mean(axis=0)
    assert np.abs(corner - (255, 0, 0)).max() < 12
    with av.open(io.BytesIO(small.data)) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_any_frame_of_a_transcoded_video_is_near_a_key_frame_and_its_index_lies_in_front(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", frames=40)
    data = transcode(path, short_side=48, gop=8).data
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(io.BytesIO(data)) as container:
        keys = [n for n, packet in enumerate(p for p in container.demux(video=0) if p.size) if packet.is_keyframe]
    assert max(later - earlier for earlier, later in pairwise([*keys, 40])) <= 8
    assert frame_number(decode(data, [33]).frames[0]) == 33
    if find_spec("decord"):
        import decord

        assert frame_number(decord.VideoReader(io.BytesIO(data))[33].asnumpy()) == 33


def test_the_same_video_transcodes_to_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), dtype=np.uint8)
    path = write_video(tmp_path / "v.mp4", pictures=list(noise))
    code = (
        "import hashlib, sys; from pathlib import Path; from umt_ds.data.pixels.video import transcode\n"
        "print(*{hashlib.sha256(transcode(Path(sys.argv[1]), short_side=32).data).hexdigest() for _ in range(10)})"
    )
    command = [sys.executable, "-c", code, str(path)]
    seen = {subprocess.run(command, cwd=REPO, check=True, capture_output=True).stdout for _ in range(2)}
    assert seen == {hashlib.sha256(transcode(path, short_side=32).data).hexdigest().encode() + b"\n"}


def test_transcoding_a_long_video_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from umt_ds.data.pixels.video import transcode\n"
        "transcode(Path(sys.argv[1]), short_side=48); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for count in (40, 400):
        grey = np.full((480, 640, 3), 99, np.uint8)
        path = write_video(tmp_path / f"{count}.mp4", size=(640, 480), pictures=[grey] * count)
        command = [sys.executable, "-c", code, str(path)]
        peaks.append(int(subprocess.run(command, cwd=REPO, check=True, capture_output=True).stdout) / 1024)
    assert peaks[1] - peaks[0] < 20, f"{peaks} MB; 360 more frames are 166 MB"


def test_what_is_damaged_in_the_middle_is_not_transcoded(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), dtype=np.uint8)
    data = bytearray(write_video(tmp_path / "v.mp4", pictures=list(noise)).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    with pytest.raises(DecodeError, match="damaged: "):
        transcode(bytes(data), short_side=48)


def test_the_same_frames_encode_to_the_same_bytes(tmp_path: Path) -> None:
    """x264 is not repeatable by default: 30 runs of a moving pattern are enough to see it."""
    y, x = np.mgrid[:96, :96]
    frames = [
        np.stack([(x + 5 * n) * 2 % 256, (y * 3 + x * n) % 256, (x * y // 16 + 9 * n) % 256], axis=2) for n in range(16)
    ]
    encoded = set()
    for _ in range(30):
        write_mp4(tmp_path / "v.mp4", [frame.astype(np.uint8) for frame in frames], fps=10)
        encoded.add((tmp_path / "v.mp4").read_bytes())
    assert len(encoded) == 1


def test_encoded_frames_come_back(tmp_path: Path) -> None:
    frames = [np.full((32, 48, 3), 10 * n, np.uint8) for n in range(8)]
    write_mp4(tmp_path / "a.mp4", frames, fps=8)
    decoded = decode(tmp_path / "a.mp4", range(8))
    assert np.abs(decoded.frames.mean(axis=(1, 2, 3)) - 10 * np.arange(8)).max() < 2.5
    assert decoded.fps == 8


def test_the_door_does_not_load_torch() -> None:
    code = "import sys, umt_ds.data.pixels.video; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, check=False).returncode == 0


# What DATA.md says of each odd file: frames (PyAV's count), width and height as shown; or part of the reason.
ODD_FILES: dict[str, tuple[int, int, int] | str] = {
    "all_white_300frames.mp4": (300, 320, 240),
    "animated.gif": (30, 314, 273),
    "audio_only.mp4": "no video stream (audio only)",
    "av1_video.mkv": (125, 640, 360),
    "broken_no_timescale.mp4": "frame 0 of 182 is incomplete",
    "corrupted_midway.mp4": "decoding stops after 28 of 50",
    "failing_audio.mp4": (280, 640, 360),
    "fps_5_frames.mp4": (5, 960, 540),
    "fragmented.mp4": (150, 960, 540),
    "h264_10bit.mp4": (30, 200, 200),
    "h265_10frames.mp4": (10, 128, 128),
    "mpeg1_drums.mpg": (97, 176, 144),
    "no_duration_vfr.webm": (74, 1280, 720),
    "odd_size_66x50_60fps.mov": (82, 66, 50),
    "one_pixel.mp4": (5, 1, 1),
    "rotation_video_0.mov": (3, 568, 320),
    "rotation_video_180.mov": (3, 568, 320),
    "rotation_video_90.mov": (3, 320, 568),
    "single_frame_h264.mp4": (1, 320, 240),
    "smallest_mp4_no_stream.mp4": "no streams",
    "tiny_40x30.mp4": (13, 40, 30),
    "transparent.webm": (150, 200, 200),
    "unordered_4frames.mov": (4, 50, 50),
    "vfr_rotated180_10fps.mp4": (25, 1280, 720),
    "zero_bytes.webm": "file is empty (0 bytes)",
}


@needs_odd
def test_every_odd_file_is_expected() -> None:
    assert {path.name for path in ODD.iterdir()} == set(ODD_FILES)


@needs_odd
@pytest.mark.parametrize("name", sorted(ODD_FILES))
def test_odd_file(name: str) -> None:
    expected = ODD_FILES[name]
    if isinstance(expected, str):
        with pytest.raises(DecodeError) as caught:
            decode(ODD / name, lambda count: spread(count))
        assert expected in caught.value.what
        return
    decoded = decode(ODD / name, lambda count: spread(count))
    assert (decoded.num_frames, decoded.width, decoded.height) == expected
    assert decoded.frames.shape == (len(decoded.numbers), decoded.height, decoded.width, 3)
    # decode() seeks: the frames must be those that come when all are decoded in order
    truth = list(all_frames(ODD / name))
    for number, frame in zip(decoded.numbers, decoded.frames, strict=True):
        np.testing.assert_array_equal(frame[::4, ::4], truth[number])


def spread(count: int) -> list[int]:
    return sorted({0, count // 4, count // 2, 3 * count // 4, count - 1})


def all_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Every frame in order, by PyAV, turned as the display matrix says, every fourth row and column."""
    exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            pixels = frame.reformat(format="rgb24", interpolation=exact).to_ndarray()
            yield np.rot90(pixels, frame.rotation // 90)[::4, ::4].copy()
