"""What people call a video: frames in any of the usual containers are the same video."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from umt_ds.api.videos import frames_in, videos_in, views_of
from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.errors import DataError

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)
REQUEST = ClipRequest(middle_frames(2), side=4, view="stretched")


@pytest.mark.parametrize(
    "given",
    [
        FRAMES,
        torch.from_numpy(FRAMES),
        FRAMES.transpose(0, 3, 1, 2),  # channels first
        torch.from_numpy(FRAMES).permute(0, 3, 1, 2),
        list(FRAMES),
        list(torch.from_numpy(FRAMES)),
        [Image.fromarray(frame) for frame in FRAMES],
        tuple(Image.fromarray(frame) for frame in FRAMES),
    ],
)
def test_frames_in_any_container_are_one_video(given: object) -> None:
    (video,), is_one = videos_in(given)  # type: ignore[arg-type]
    assert is_one
    assert np.array_equal(frames_in(video), FRAMES)
    expected = REQUEST.views_of(FRAMES[[0, 3]])  # the middle ones of frames 0, 1 and 2, 3, 4
    assert np.array_equal(views_of(video, REQUEST).numpy(), expected)


def test_a_list_of_videos_and_a_batch_are_several(tmp_path: Path) -> None:
    for given in ([FRAMES, FRAMES], np.stack([FRAMES, FRAMES]), [[*FRAMES], "a.mp4"], [tmp_path, b"video"]):
        videos, is_one = videos_in(given)  # type: ignore[arg-type]
        assert (len(videos), is_one) == (2, False)


def test_a_short_video_repeats_its_frames() -> None:
    assert views_of(FRAMES[:1], REQUEST).shape == (1, 2, 4, 4, 3)


def test_views_are_taken_as_they_are() -> None:
    views = torch.randint(0, 255, (3, 2, 4, 4, 3), dtype=torch.uint8)
    assert torch.equal(views_of(views, REQUEST), views)
    assert torch.equal(views_of(views.numpy(), REQUEST), views)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: FRAMES[0], "an array of shape [6, 8, 3] is no video"),
        (lambda: FRAMES.astype(np.float32), "pixels of type float32, which may mean several things"),
        (lambda: torch.zeros(5, 3, 6, 8), "pixels of type float32"),
        (lambda: [Image.new("RGB", (4, 4)), Image.new("RGB", (5, 4))], "different sizes"),
        (lambda: [FRAMES[0], "a.mp4"], "a list holds frames and videos at once"),
        (list, "nothing is no video"),
        (lambda: 3, "a int is no video"),
        (lambda: np.zeros((0, 6, 8, 3), np.uint8), "frames of shape [0, 6, 8, 3] are no video"),
        (lambda: np.zeros((5, 6, 8, 4), np.uint8), "frames of shape [5, 6, 8, 4] are no video"),
        (lambda: b"no video", "the video of 8 bytes"),
    ],
)
def test_what_is_no_video_is_one_error(given: Callable[[], object], said: str) -> None:
    def look() -> None:
        for video in videos_in(given())[0]:  # type: ignore[arg-type]
            views_of(video, REQUEST)

    with pytest.raises(DataError) as met:
        look()
    assert said in met.value.what


def test_views_of_another_shape_are_refused() -> None:
    with pytest.raises(DataError, match=r"the model is shown \[V,2,4,4,3\]"):
        views_of(np.zeros((1, 3, 4, 4, 3), np.uint8), REQUEST)
