"""The squares that a video is validated and tested on, without chance, as published scores are.

A frame's short side becomes the model's (bilinear, without antialias: OpenCV's values or their neighbours), then
squares are cut out. T frames, H x W pixels. Source: METHOD.md, "Views in testing".
"""

from __future__ import annotations

import numpy as np
import torch

from umt_ds.data.pixels.augment import Crop, Pixels, Placement, cut, resize_plainly


def validation_view(frames: Pixels, *, side: int) -> Pixels:
    """The centre square of every frame: u8 [T,H,W,3] → u8 [T,side,side,3]."""
    resized = _resized(frames, side)
    return cut(resized, crop_of_validation(resized.shape[2], resized.shape[1], side=side)).copy()


def testing_views(frames: Pixels, *, side: int, num_crops: int) -> Pixels:
    """`num_crops` squares along the long side of every frame: u8 [T,H,W,3] → u8 [num_crops,T,side,side,3]."""
    resized = _resized(frames, side)
    crops = crops_of_testing(resized.shape[2], resized.shape[1], side=side, num_crops=num_crops)
    return np.stack([cut(resized, crop) for crop in crops])


def size_in_testing(width: int, height: int, *, side: int) -> tuple[int, int]:
    """(width, height) of a frame whose short side has become `side`, the long one cut to whole pixels.

    Source: METHOD.md, "Views in testing". (Our own probes see `augment.centred`, which no published score knows.)
    """
    short, long = min(width, height), int(side * max(width, height) / min(width, height))
    if short == side:
        return width, height
    return (long, side) if width > height else (side, long)


def crop_of_validation(width: int, height: int, *, side: int) -> Crop:
    """The centre square of a frame of `size_in_testing`, with Python's round (half to even).

    Source: METHOD.md, "Views in testing".
    """
    return Crop(round((width - side) / 2), round((height - side) / 2), side, side)


def crops_of_testing(width: int, height: int, *, side: int, num_crops: int) -> list[Crop]:
    """`num_crops` squares from one end of the long side to the other, of a frame of `size_in_testing`; one is central.

    A view in testing is a test clip (`umt_ds.data.order.views`) and one of these, in the order (0, 0), (0, 1), …: all
    crops of a clip before the next clip. Source: METHOD.md, "Views in testing".
    """
    free = max(width, height) - side
    offsets = [int(free / 2)] if num_crops == 1 else [int(k * (free / (num_crops - 1))) for k in range(num_crops)]
    return [Crop(start, 0, side, side) if width > height else Crop(0, start, side, side) for start in offsets]


def _resized(frames: Pixels, side: int) -> Pixels:
    """Whole frames of `size_in_testing`: u8 [T,H,W,3] → u8 [T,h,w,3]."""
    _, height, width, _ = frames.shape
    size = size_in_testing(width, height, side=side)
    if size == (width, height):
        return frames
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2)  # [T,3,H,W]
    placement = Placement(Crop(0, 0, width, height), size, antialias=False)
    return np.asarray(resize_plainly(pictures, placement).permute(0, 2, 3, 1).numpy())
