"""Which seconds of a file a clip holds: by the times at which a player shows its frames, whatever its rate."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from data_prep.clip import Clip, Outcome, Refusal, Sample, StoreOptions
from data_prep.decode import make_sample
from tests.support.videos import frame_number, level, pictures_of
from umt_ds.data.pixels.video import decode

# Ten frames a second for 2 s, then two a second up to the end at 8 s.
SLOWS_DOWN = [*range(20), *range(20, 80, 5)]
LAST = 5


def write(path: Path, ticks: Sequence[int], *, sound_s: float = 0.0, last: int = LAST) -> Path:
    """Frame n has level(n % 32) and is shown at ticks[n] tenths of a second; the last one for `last` of them."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(10), options={"crf": "8", "g": "10", "bf": "2"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = Fraction(1, 10)
        packets: list[Any] = []
        for number, tick in enumerate(ticks):
            grey = np.full((48, 64, 3), level(number % 32), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 10)
            packets += video.encode(frame)
        packets += video.encode(None)
        lasts = dict(zip(ticks, [*(later - tick for tick, later in pairwise(ticks)), last], strict=True))
        for packet in packets:
            packet.duration = lasts[packet.pts]
        if sound_s:
            audio = container.add_stream("aac", rate=16000, layout="mono")
            for start in range(0, int(16000 * sound_s), 1024):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                silence.sample_rate, silence.pts = 16000, start
                packets += audio.encode(silence)
            packets += audio.encode(None)
        for packet in sorted(packets, key=lambda packet: float(packet.dts * packet.time_base)):
            container.mux(packet)
    return path


def made(path: Path, span: tuple[float, float] | None = None, **store: Any) -> Outcome:
    options = StoreOptions(**{"frames": 4, "short_side": 32, **store})
    return make_sample(Clip("k", path.name, span_s=span), root=path.parent, media="video", store=options)


def record(outcome: Outcome) -> dict[str, Any]:
    assert isinstance(outcome, Sample), outcome
    found: dict[str, Any] = json.loads(outcome.members["json"])
    return found


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_span_of_a_video_that_slows_down_holds_the_seconds_asked_for(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"v.{suffix}", SLOWS_DOWN)
    outcome = made(path, (3.0, 7.0))
    found = record(outcome)
    assert found["times_s"] == pytest.approx([3.5, 4.5, 5.5, 6.5], abs=2e-3)
    assert found["source_frames"] == [23, 25, 27, 29]
    assert (found["duration_s"], found["num_frames_total"]) == (4.0, 32)
    assert isinstance(outcome, Sample)
    assert [frame_number(picture) for picture in pictures_of(outcome)] == found["source_frames"]


def test_frames_a_second_are_so_far_apart_in_time(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", SLOWS_DOWN)
    assert record(made(path, fps=1.0))["times_s"] == pytest.approx([0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5], abs=2e-3)
    assert record(made(path, (2, 6), fps=0.5))["times_s"] == pytest.approx([3.0, 5.0], abs=2e-3)
    often = record(made(path, fps=100.0))
    assert often["source_frames"] == list(range(32)), "each frame at most once"


def test_evenly_spread_means_over_the_time(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", SLOWS_DOWN)
    assert record(made(path))["times_s"] == pytest.approx([1.0, 3.0, 5.0, 7.0], abs=2e-3)
    assert record(made(path, frames=32))["source_frames"] == list(range(32)), "a short video gives all its frames"


def test_npy_and_mp4_hold_the_same_seconds(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", SLOWS_DOWN)
    assert record(made(path, (3.0, 7.0), store="npy")) == record(made(path, (3.0, 7.0)))
    film = made(path, (3.0, 7.0), store="mp4", fps=2.0)
    assert record(film)["times_s"] == pytest.approx([3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5], abs=2e-3)
    assert record(film)["duration_s"] == 4.0
    assert isinstance(film, Sample)
    assert decode(film.members["mp4"], [0]).duration_s == pytest.approx(4.0)


def test_an_mp4_of_a_span_after_a_pause_shows_no_frame_of_before_it(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", [*range(20), *range(50, 80)], last=1)
    assert record(made(path, (3.0, 7.0), store="mp4", fps=1.0))["times_s"] == pytest.approx([5, 5, 5, 6], abs=2e-3)


def test_a_span_shorter_than_a_frame_is_the_frame_shown_then(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", SLOWS_DOWN)
    assert record(made(path, (5.1, 5.2)))["times_s"] == pytest.approx([5.0], abs=2e-3)


def test_a_span_that_the_end_of_the_file_shortens_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", SLOWS_DOWN)
    assert record(made(path, (5.0, 8.75)))["duration_s"] == 3.0
    refusal = made(path, (20, 25))
    assert isinstance(refusal, Refusal)
    assert refusal.reason.startswith("lasts 8.0 s: neither the clip of 5 s nor the whole video")


def test_the_cut_clip_is_told_by_its_own_length(tmp_path: Path) -> None:
    """Neither by that of its sound, nor where the file holds the row's seconds and much more than them."""
    path = write(tmp_path / "sound.mkv", range(40), sound_s=9.0)
    assert record(made(path, (60, 64)))["duration_s"] == pytest.approx(4.0, abs=2e-3)
    path = write(tmp_path / "short.mp4", range(30), last=1)
    assert record(made(path, (1, 2)))["times_s"] == pytest.approx([1.1, 1.3, 1.6, 1.8], abs=2e-3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_seconds_count_from_the_start_of_the_file_also_where_its_sound_starts_first(
    tmp_path: Path, suffix: str
) -> None:
    path = write(tmp_path / f"v.{suffix}", [30 + n for n in range(50)], sound_s=8.0, last=1)
    found = record(made(path, (4.0, 5.0)))
    assert found["times_s"] == pytest.approx([4.1, 4.3, 4.6, 4.8], abs=0.08)
    assert found["source_frames"] == [11, 13, 16, 18]
    refusal = made(path, (0.0, 2.0))
    assert isinstance(refusal, Refusal)
    assert refusal.reason == f"shows its first frame at {3.1 if suffix == 'ts' else 3.0:.1f} s and none at 0-2 s"


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
@pytest.mark.parametrize(
    ("name", "ticks", "sound_s"),
    [
        ("slows_down.mp4", SLOWS_DOWN, 0.0),
        ("slows_down.mkv", SLOWS_DOWN, 9.0),
        ("pause.mp4", [*range(20), *range(40, 72)], 0.0),
        ("drops.mkv", [n for n in range(60) if n % 5 != 2 and n % 7 != 3], 0.0),
        ("late.mp4", [20 + n for n in range(60)], 8.0),
        ("late.mkv", [20 + n for n in range(60)], 8.0),
        ("starts_at_2.mkv", [20 + n for n in range(60)], 0.0),
        ("constant.mp4", range(80), 0.0),
        ("constant.ts", range(80), 8.0),
    ],
)
@pytest.mark.parametrize("span", [(2.0, 5.0), (2.98, 5.28)])
def test_a_span_holds_the_frames_that_ffmpeg_cuts_out(
    tmp_path: Path, name: str, ticks: Sequence[int], sound_s: float, span: tuple[float, float]
) -> None:
    path = write(tmp_path / name, ticks, sound_s=sound_s)
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(path), "-vf", f"trim={span[0]}:{span[1]}"]
    command += ["-an", "-vsync", "passthrough", "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    shown = np.frombuffer(raw, np.uint8).reshape(-1, 48, 64)
    expected = [frame_number(picture) for picture in shown]
    outcome = made(path, span, frames=100)
    assert isinstance(outcome, Sample), outcome
    assert [frame_number(picture) for picture in pictures_of(outcome)] == expected
