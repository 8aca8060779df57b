"""Which frame is which, whatever the container; and files that would take all memory or never end."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from tests.support.paths import REPO
from tests.support.videos import frame_number, level, write_video
from umt_ds.data.pixels import video_file
from umt_ds.data.pixels.video import Limits, decode
from umt_ds.data.pixels.video_open import packets_of
from umt_ds.errors import DecodeError

OPEN_GOP = "keyint=8:min-keyint=8:open-gop=1:bframes=3:scenecut=0"


def write(
    path: Path,
    *,
    codec: str = "libx264",
    frames: int = 40,
    size: tuple[int, int] = (64, 48),
    ticks: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Frame n has level(n) and is shown at ticks[n] tenths of a second (n, if not given)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(10), options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        for number in range(frames):
            grey = np.full((size[1], size[0], 3), level(number % 40), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = ticks[number] if ticks else number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("b_frames.mp4", "libx264", {"g": "6", "bf": "3", "crf": "8"}),
        ("one_key_frame.mp4", "libx264", {"g": "250", "crf": "8"}),
        ("open_gop.mp4", "libx264", {"x264-params": OPEN_GOP, "crf": "8"}),
        ("open_gop.mkv", "libx264", {"x264-params": OPEN_GOP, "crf": "8"}),
        ("open_gop.ts", "libx264", {"x264-params": OPEN_GOP, "crf": "8"}),
        ("intra_refresh.mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=8", "crf": "8"}),
        ("no_times.h264", "libx264", {"g": "6", "bf": "2", "crf": "8"}),
        ("no_times.avi", "mpeg4", {"g": "6", "bf": "2", "qmax": "2"}),
        ("program.mpg", "mpeg2video", {"g": "6", "bf": "2", "qmax": "2"}),
        ("hidden_frames.webm", "libvpx-vp9", {"g": "10", "lag-in-frames": "8", "auto-alt-ref": "1", "crf": "8"}),
    ],
)
def test_any_frames_of_any_container_are_the_ones_asked_for(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    path = write(tmp_path / name, codec=codec, options=options)
    pick = random.Random(0)
    for count in (1, 2, 5, 40):
        numbers = [pick.randrange(40) for _ in range(count)]
        decoded = decode(path, numbers)
        assert [frame_number(frame) for frame in decoded.frames] == numbers
        assert decoded.num_frames == 40


def test_a_frame_far_away_is_sought_not_decoded_up_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "v.mp4", options={"g": "6", "crf": "8"})
    decoded: list[int] = []
    number_of = video_file.Index.number_of
    monkeypatch.setattr(video_file.Index, "number_of", lambda *a: decoded.append(number_of(*a)) or decoded[-1])
    assert frame_number(decode(path, [37]).frames[0]) == 37
    assert decoded == [36, 37]


def test_times_are_those_shown_where_the_rate_varies(tmp_path: Path) -> None:
    ticks = [0, 1, 2, 10, 11, 30]
    decoded = decode(write(tmp_path / "v.mp4", frames=6, ticks=ticks), [5, 3, 0])
    assert decoded.times_s == pytest.approx([3.0, 1.0, 0.0])
    assert [frame_number(frame) for frame in decoded.frames] == [5, 3, 0]


def test_a_video_does_not_end_before_its_last_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", ticks=[*range(20), *range(20, 80, 3)], options={"bf": "3"})
    decoded = decode(path, [39])  # the header sums up other lengths: those of the frames as they are decoded
    assert decoded.times_s[-1] < decoded.duration_s < decoded.times_s[-1] + 1


def test_a_video_that_begins_late_begins_at_zero(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mkv", frames=6, ticks=[50, 51, 52, 53, 54, 55])
    assert decode(path, [0, 5]).times_s == pytest.approx([0.0, 0.5], abs=1e-3)


def test_two_recordings_in_one_file_follow_one_another(tmp_path: Path) -> None:
    data = write(tmp_path / "v.ts", frames=10, options={"g": "5", "crf": "8"}).read_bytes()
    decoded = decode(data + data, [3, 9, 10, 13])
    assert decoded.num_frames == 20
    assert [frame_number(frame) for frame in decoded.frames] == [3, 9, 0, 3]
    assert decoded.times_s == pytest.approx([0.3, 0.9, 1.0, 1.3])


@pytest.mark.parametrize("start", [0, 9000])
def test_a_recording_behind_another_one_keeps_its_own_rate(tmp_path: Path, start: int) -> None:
    fast = write(tmp_path / "a.ts", frames=20, options={"g": "5", "crf": "8"}).read_bytes()
    slow = write(tmp_path / "b.ts", frames=10, ticks=[start + n * 5 for n in range(10)], options={"g": "5", "crf": "8"})
    decoded = decode(fast + slow.read_bytes(), [19, 20, 21, 29])
    assert [frame_number(frame) for frame in decoded.frames] == [19, 0, 1, 9]
    assert decoded.times_s == pytest.approx([1.9, 2.0, 2.5, 6.5])


def test_a_long_pause_in_a_recorded_screen_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "v.ts", frames=20, ticks=[*range(10), *range(300, 310)])
    assert decode(path, [9, 10, 19]).times_s == pytest.approx([0.9, 30.0, 30.9])


def test_a_stream_that_appears_on_the_way_is_no_error_of_the_others() -> None:
    class Container:
        def demux(self, *streams: str) -> Iterator[str]:
            yield from streams
            raise IndexError("list index out of range")  # as PyAV 18.1, by what lies in memory

    assert list(packets_of(Container(), "ours", "its last")) == ["ours", "its last"]  # type: ignore[arg-type]


def test_a_frame_with_holes_is_refused_instead_of_shown_as_the_decoder_patched_it(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), dtype=np.uint8)
    data = bytearray(write_video(tmp_path / "v.mp4", pictures=list(noise)).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    with pytest.raises(DecodeError, match="damaged: "):
        decode(bytes(data), range(30))


def grows(folder: Path) -> Path:
    """A webm whose frames are 64x48, as it says, and then 2048x1536."""
    fast = {"deadline": "realtime", "cpu-used": "8"}
    parts = [
        write(folder / "small.webm", codec="libvpx", frames=20, options=fast),
        write(folder / "large.webm", codec="libvpx", frames=5, size=(2048, 1536), options=fast),
    ]
    with av.open(str(folder / "grows.webm"), "w") as out:
        stream = None
        for number, part in enumerate(parts):
            with av.open(str(part)) as source:
                stream = stream or out.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.stream = stream
                        packet.pts = packet.dts = packet.pts + 2000 * number  # ms
                        out.mux(packet)
    return folder / "grows.webm"


def test_frames_that_grow_on_the_way_are_shown_like_the_first(tmp_path: Path) -> None:
    decoded = decode(grows(tmp_path), [0, 24])
    assert decoded.frames.shape == (2, 48, 64, 3)
    assert [frame_number(frame) for frame in decoded.frames] == [0, 4]


def test_frames_that_grow_beyond_the_limit_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from umt_ds.data.pixels.video import Limits, decode
from umt_ds.data.pixels.video_open import packets_of
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(Path(sys.argv[1]), range(25), limits=Limits(max_pixels=1 << 20))
except Exception as error:
    print(error, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, sep="|")
"""
    command = [sys.executable, "-c", code, str(grows(tmp_path))]
    reason, grown = subprocess.run(command, cwd=REPO, check=True, capture_output=True, text=True).stdout.split("|")
    assert reason.startswith("damaged: decoding stops after 20 of 25 frames")
    assert int(grown) < 15, f"{grown} MB; one of the large frames is 5, as RGB 9"


@pytest.mark.parametrize("codec", ["gif", "libx264"])
def test_endless_frames_are_refused_while_they_are_counted(tmp_path: Path, codec: str) -> None:
    path = write(tmp_path / ("v.gif" if codec == "gif" else "v.h264"), codec=codec, frames=300, size=(16, 16))
    with pytest.raises(DecodeError, match="250"):
        decode(path, [0], limits=Limits(max_frames=250))


def test_a_gif_that_repeats_for_ever_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "v.gif", codec="gif", frames=12)
    assert b"NETSCAPE2.0\x03\x01\x00\x00" in path.read_bytes(), "it says: for ever"
    assert decode(path, [0]).num_frames == 12


def test_nothing_is_left_open(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", frames=6)
    decode(path, [5])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(300):
        decode(path, [5])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024, "kB"
    assert not any(str(path) in str(link.resolve()) for link in Path("/proc/self/fd").iterdir())


PictureTrack = tuple[str, int, tuple[int, int], Disposition]  # codec, frames, size, disposition


def tracks(path: Path, *films: PictureTrack) -> Path:
    """Video tracks side by side; each shows one grey, level(its number)."""
    with av.open(str(path), "w") as container:
        streams = []
        for codec, _, size, disposition in films:
            stream = container.add_stream(codec, rate=Fraction(10))
            stream.width, stream.height = size
            stream.pix_fmt = {"mjpeg": "yuvj420p", "png": "rgb24"}.get(codec, "yuv420p")
            stream.disposition = disposition
            streams.append(stream)
        for number, (stream, (_, frames, size, _)) in enumerate(zip(streams, films, strict=True)):
            grey = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), level(number), np.uint8), format="rgb24")
            for at in range(frames):
                grey.pts, grey.time_base = at, Fraction(1, 10)
                container.mux(stream.encode(grey))
            container.mux(stream.encode(None))
    return path


DEFAULT, NONE = Disposition.default, Disposition(0)
FILM = ("mpeg4", 24, (64, 48), NONE)


@pytest.mark.parametrize(
    ("suffix", "films", "shown"),
    [
        ("mp4", [("mjpeg", 1, (320, 240), DEFAULT), FILM], 1),
        ("mov", [("png", 1, (320, 240), DEFAULT), FILM], 1),
        ("mkv", [("mjpeg", 1, (320, 240), DEFAULT), FILM], 1),
        ("mp4", [("mpeg4", 1, (320, 240), DEFAULT), FILM], 1),
        ("mkv", [FILM, ("mjpeg", 1, (320, 240), DEFAULT)], 0),
        ("mkv", [("mjpeg", 2, (320, 240), DEFAULT), FILM], 1),  # one for every 12 frames
        ("mkv", [("mpeg4", 12, (32, 16), NONE), FILM], 1),  # of two films the larger, as ffmpeg chooses …
        ("mkv", [("mpeg4", 12, (32, 16), DEFAULT), FILM], 0),  # … unless the other is the default
        ("mkv", [FILM, FILM], 0),
        ("mp4", [("mjpeg", 1, (64, 48), NONE)], 0),  # a film of one frame
    ],
)
def test_of_several_video_tracks_the_film_is_shown(
    tmp_path: Path, suffix: str, films: list[PictureTrack], shown: int
) -> None:
    path = tracks(tmp_path / f"v.{suffix}", *films)
    decoded = decode(path, [0])
    assert frame_number(decoded.frames[0]) == shown
    assert decoded.num_frames == films[shown][1]
