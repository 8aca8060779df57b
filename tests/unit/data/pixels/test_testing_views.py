"""Views in testing against plain bilinear sums and slices (METHOD.md, "Views in testing")."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from umt_ds.data.pixels.testing import testing_views, validation_view


def between_neighbours(frames: NDArray[np.uint8], width: int, height: int) -> NDArray[np.float64]:
    """Bilinear without antialias, pixel by pixel: [T,H,W,3] → [T,height,width,3]."""

    def axis(size: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        place = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(place).astype(int)
        return low, np.minimum(low + 1, length - 1), place - low

    top, bottom, y = axis(height, frames.shape[1])
    left, right, x = axis(width, frames.shape[2])
    y, x = y[:, None, None], x[None, :, None]
    upper = frames[:, top][:, :, left] * (1 - x) + frames[:, top][:, :, right] * x
    lower = frames[:, bottom][:, :, left] * (1 - x) + frames[:, bottom][:, :, right] * x
    return np.asarray(upper * (1 - y) + lower * y)


@pytest.fixture
def clip() -> NDArray[np.uint8]:
    """Two frames of noise, 36 x 61."""
    return np.random.default_rng(0).integers(0, 256, (2, 36, 61, 3), dtype=np.uint8)


def test_three_crops_lie_along_the_long_side(clip: NDArray[np.uint8]) -> None:
    # 61 · 20/36 = 33.9 → 33 wide; 13 free, so int(k · 6.5): 0, 6, 13
    wide = between_neighbours(clip, 33, 20)
    views = testing_views(clip, side=20, num_crops=3)
    assert views.dtype == np.uint8
    assert views.shape == (3, 2, 20, 20, 3)
    for view, left in zip(views, (0, 6, 13), strict=True):
        assert np.abs(view - wide[:, :, left : left + 20]).max() <= 0.51
    tall = testing_views(clip.swapaxes(1, 2), side=20, num_crops=3)
    assert np.array_equal(tall.swapaxes(2, 3), views)


def test_validation_shows_the_centre(clip: NDArray[np.uint8]) -> None:
    # (33 - 20) / 2 = 6.5 → 6, half to even
    view = validation_view(clip, side=20)
    assert np.abs(view - between_neighbours(clip, 33, 20)[:, :, 6:26]).max() <= 0.51


def test_frames_of_the_right_height_are_only_cut(clip: NDArray[np.uint8]) -> None:
    assert np.array_equal(validation_view(clip, side=36), clip[:, :, 12:48])  # 12.5 → 12
    assert np.array_equal(testing_views(clip, side=36, num_crops=1)[0], clip[:, :, 12:48])
