"""Views of fine-tuning: published code resizes normalised floats, ours bytes (METHOD.md, "Crops: recognition")."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from umt_ds.data.pixels.augment import View, draw_view, render
from umt_ds.keyed import Stream

MEAN = torch.tensor([0.485, 0.456, 0.406])
STD = torch.tensor([0.229, 0.224, 0.225])


def published_view(frames: NDArray[np.uint8], view: View, side: int) -> NDArray[np.float32]:
    """u8 [T,H,W,3] → f32 [T,side,side,3], in grey levels."""
    crop = view.placement.crop
    clip = ((torch.from_numpy(frames).float() / 255 - MEAN) / STD).permute(3, 0, 1, 2)  # [3,T,H,W]
    clip = clip[:, :, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    clip = F.interpolate(clip, size=(side, side), mode="bilinear", align_corners=False)
    if view.mirrored:
        clip = clip.flip((3,))
    return np.asarray(((clip.permute(1, 2, 3, 0) * STD + MEAN) * 255).numpy())


@pytest.mark.parametrize(("width", "height"), [(90, 60), (60, 90), (24, 24)])
def test_views_are_within_a_grey_level_of_published_ones(width: int, height: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    mirrored = 0
    for key in range(40):
        stream = Stream(0, "augment", key, 0)
        view = draw_view(
            width,
            height,
            side=32,
            stream=stream,
            crop="random_resized",
            scale=(0.08, 1.0),
            filter="bilinear",
            flip=True,
            antialias=False,
        )
        ours = np.empty((2, 32, 32, 3), np.uint8)
        render(frames, view, ours)
        assert np.abs(ours - published_view(frames, view, 32)).max() < 0.51
        mirrored += view.mirrored
    assert 8 < mirrored < 32
