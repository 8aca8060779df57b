"""Random erasing: of some views a box is replaced by noise, the same box in all frames, other noise in each.

The draws are keyed by (seed, step, slot). Neither torchvision's nor timm's version is used: the first has one noise for
all frames and 10 tries instead of 100, the second another box in each frame, and both draw from global generators.

Source: METHOD.md, "Crops: recognition".

Shapes: B rows, T frames, H x W pixels, h x w pixels of a box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from umt_ds.kernels.philox import Purpose, normal, uniform
from umt_ds.tasks.recognition.box import Box

AREA = (0.02, 1 / 3)  # part of a frame
LOG_ASPECT = (math.log(3 / 10), math.log(10 / 3))  # of height / width
_TRIES = 100


def draw_boxes(part: float, *, seed: int, step: int, slots: Tensor, height: int, width: int) -> list[Box | None]:
    """The box of each view that is erased, None for the others. part: of the views that are erased. slots: i64 [B] on
    the host."""
    drawn = uniform(seed, step, slots, 3 + 2 * _TRIES, Purpose.ERASING)  # [B,203]
    return [box_of(part, numbers, height=height, width=width) for numbers in drawn.tolist()]


def box_of(part: float, drawn: Sequence[float], *, height: int, width: int) -> Box | None:
    """What numbers between 0 and 1 say of a view: whether, where, and two for each try to find a size that fits."""
    whether, y, x, *tries = drawn
    if whether >= part:
        return None
    for area, aspect in zip(tries[::2], tries[1::2], strict=True):
        tall, wide = box_size(_between(AREA, area), _between(LOG_ASPECT, aspect), height=height, width=width)
        if tall < height and wide < width:
            top, left = int(y * (height - tall + 1)), int(x * (width - wide + 1))
            return Box(top, top + tall, left, left + wide)
    return None


def box_size(area: float, log_aspect: float, *, height: int, width: int) -> tuple[int, int]:
    """Height and width of a box with this part of a frame's area; it may be too large for the frame."""
    pixels, aspect = area * height * width, math.exp(log_aspect)
    return round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))


def erase_(pixels: Tensor, boxes: Sequence[Box | None], *, seed: int, step: int, slots: Tensor) -> None:
    """Fill the boxes with normal noise in place: normalised f32 [B,3,T,H,W], slots i64 [B] on its device."""
    erased = [(row, box) for row, box in enumerate(boxes) if box is not None]
    if not erased:
        return
    channels, frames = pixels.shape[1:3]
    most = channels * frames * max(box.area for _, box in erased)
    noise = normal(seed, step, torch.stack([slots[row] for row, _ in erased]), most, Purpose.ERASING_NOISE)
    for (row, box), numbers in zip(erased, noise, strict=True):
        fill(pixels[row], box, numbers[: channels * frames * box.area].view(frames, channels, box.height, box.width))


def fill(clip: Tensor, box: Box, noise: Tensor) -> None:
    """Write noise f32 [T,3,h,w] into the box of a clip [3,T,H,W]."""
    box.of(clip).copy_(noise.transpose(0, 1))


def _between(ends: tuple[float, float], u: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * u
