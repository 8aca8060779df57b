"""A video file is shown to a model whole or in windows, as an evaluation set would show it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.videos import frame_number, write_video
from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.data.pixels.augment import stretch_view
from umt_ds.data.pixels.video import decode
from umt_ds.data.pixels.video_timeline import Timeline
from umt_ds.data.video_clips import VideoClip, Windows, clip_of_video, clips_of_video
from umt_ds.errors import DecodeError


def request(count: int = 2) -> ClipRequest:
    return ClipRequest(frames=middle_frames(count), side=16, view="stretched", antialias=False)


def shown(clip: VideoClip) -> list[int]:
    return [frame_number(frame) for frame in clip.views[0].numpy()]


def steady(seconds: float, *, rate: float = 10.0) -> Timeline:
    return Timeline([n / rate for n in range(round(seconds * rate))], seconds, rate)


def test_a_whole_video_is_one_clip_with_the_frames_and_pixels_of_an_evaluation(tmp_path: Path) -> None:
    pictures = [np.random.default_rng(n).integers(0, 255, (48, 64, 3), np.uint8) for n in range(12)]
    file = write_video(tmp_path / "a.mp4", pictures=pictures, fps=10)
    clip = clip_of_video(file, request(4))
    expected = stretch_view(decode(file, [1, 4, 7, 10]).frames, side=16, antialias=False)  # the centre of each three
    assert clip.span_s == (0.0, pytest.approx(1.2))
    assert np.array_equal(clip.views.numpy(), expected[None])


def test_windows_start_each_stride_and_the_last_one_ends_with_the_video() -> None:
    windows = Windows(10, 5)
    assert windows.spans(steady(20)) == [(0, 10), (5, 15), (10, 20)]
    assert windows.spans(steady(22)) == [(0, 10), (5, 15), (10, 20), (12, 22)]
    assert windows.spans(steady(7)) == [(0, 7)]
    assert Windows(10, 10).spans(steady(25)) == [(0, 10), (10, 20), (15, 25)]


def test_a_window_shows_the_frames_of_its_seconds(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.mp4", frames=30, fps=10)
    found = clips_of_video(file, request(2), windows=Windows(1.0, 0.5))
    assert found.of == 5
    assert [clip.span_s for clip in found.clips] == [(0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5), (2, 3)]
    assert [shown(clip) for clip in found.clips] == [[2, 7], [7, 12], [12, 17], [17, 22], [22, 27]]


def test_some_of_the_windows_are_those_of_all_windows(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.mp4", frames=30, fps=10)
    every = clips_of_video(file, request(), windows=Windows(1.0, 0.5)).clips
    some = clips_of_video(file, request(), windows=Windows(1.0, 0.5), first=1, at_most=3)
    assert some.of == 5
    assert [clip.span_s for clip in some.clips] == [clip.span_s for clip in every[1:4]]
    assert [shown(clip) for clip in some.clips] == [shown(clip) for clip in every[1:4]]


def test_a_short_video_repeats_its_last_frame_but_a_window_must_hold_as_many_as_the_model_sees(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.mp4", frames=20, fps=10)
    assert shown(clip_of_video(write_video(tmp_path / "b.mp4", frames=2), request(4))) == [0, 1, 1, 1]
    found = clips_of_video(file, request(4), windows=Windows(0.2, 0.2), first=1, at_most=2)
    assert (found.clips, found.of) == ((), 10)
    ends = "on hold 2 frames, and the model sees 4 of a window"
    assert found.too_short == (f"its 0.2 s from 0.2 s {ends}", f"its 0.2 s from 0.4 s {ends}")
    with pytest.raises(DecodeError, match=r"its 0\.2 s from 0\.4 s on hold 2 frames"):
        clip_of_video(file, request(4), span_s=(0.4, 0.6))


def test_a_gap_of_a_video_costs_only_the_windows_in_it(tmp_path: Path) -> None:
    """Frames each tenth of a second in seconds 0 and 3, and none between."""
    file = write_video(tmp_path / "a.mp4", frames=20, fps=10, ticks=[*range(10), *range(30, 40)])
    found = clips_of_video(file, request(2), windows=Windows(1.0, 1.0))
    assert [(clip.span_s[0], shown(clip)) for clip in found.clips] == [(0, [2, 7]), (3, [12, 17])]
    assert found.of == 4
    assert [why.split(" on hold ")[0] for why in found.too_short] == ["its 1 s from 1 s", "its 1 s from 2 s"]


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(DecodeError):
        clip_of_video(tmp_path / "a.mp4", request())


def test_some_seconds_of_a_video_are_a_clip(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.mp4", frames=30, fps=10)
    assert shown(clip_of_video(file, request(2), span_s=(1.0, 2.0))) == [12, 17]
