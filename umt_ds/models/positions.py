"""Where a token sits: the sin-cos table of the student, and the resizing of tables to other grids.

The tables are neither parameters nor buffers: `module.to(bfloat16)` would round them, and no published
checkpoint holds one. They are computed once per device, in float32.

Shapes: T frames, h x w patches per frame, N = T·h·w tokens (t slowest, w fastest), D width.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple, assert_never

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PositionRule = Literal["sincos", "interpolated"]
"""sincos: the table of as many tokens as there are (pretraining). interpolated: the table of the base clip, stretched
to the grid at hand (fine-tuning)."""

BASE_FRAMES = 8
BASE_SIDE = 224


class BaseClip(NamedTuple):
    """The clip that a model was pretrained on: frames of side x side pixels. Published: 8 of 224."""

    frames: int = BASE_FRAMES
    side: int = BASE_SIDE


def sincos_table(tokens: int, width: int) -> Tensor:
    """The 1-D sinusoid over the flattened token index: f32 [N,D] on the CPU, computed in float64.

    Angle p / 10000^(2·floor(j/2)/D) for position p and channel j; sin where j is even, cos where it is odd.
    Source: METHOD.md, "Positions" (authors' modeling_pretrain_umt.py:20-30).
    """
    channel = np.arange(width)
    angle = np.arange(tokens)[:, None] / np.power(10000.0, 2 * (channel // 2) / width)
    return torch.from_numpy(np.where(channel % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32))


def resize_grid(table: Tensor, *, rows: int, cols: int) -> Tensor:
    """Resize each [g,g] plane of a float [M,g²,D] table to [M,rows·cols,D]: bicubic, no antialias.

    Without antialias on purpose: the published models resize this way (METHOD.md, "Positions"), open_clip does not.
    """
    side = round(table.shape[1] ** 0.5)
    if (rows, cols) == (side, side):
        return table
    planes = torch.unflatten(table, 1, (side, side)).permute(0, 3, 1, 2)  # [M,D,g,g]
    resized = F.interpolate(planes, size=(rows, cols), mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2)  # [M,rows·cols,D]


def interpolated_table(*, frames: int, rows: int, cols: int, width: int, base_frames: int, base_grid: int) -> Tensor:
    """The base table stretched to another grid, first in space (frame by frame), then in time: f32 [N,D]."""
    base = sincos_table(base_frames * base_grid**2, width).view(base_frames, base_grid**2, width)
    table = resize_grid(base, rows=rows, cols=cols)  # [base T,h·w,D]
    if frames != base_frames:
        over_time = table.permute(1, 2, 0)  # [h·w,D,base T]
        over_time = F.interpolate(over_time, size=frames, mode="linear", align_corners=False)
        table = over_time.permute(2, 0, 1)  # [T,h·w,D]
    return table.flatten(0, 1)


def finetune_table(
    frames: int, side: int, patch: int, width: int, base_frames: int = BASE_FRAMES, base_side: int = BASE_SIDE
) -> Tensor:
    """The table of a fine-tuned model for `frames` frames of side x side pixels: f32 [N,D] on the CPU."""
    grid = side // patch
    return interpolated_table(
        frames=frames,
        rows=grid,
        cols=grid,
        width=width,
        base_frames=base_frames,
        base_grid=base_side // patch,
    )


@lru_cache(maxsize=64)
def position_table(
    rule: PositionRule,
    *,
    frames: int,
    rows: int,
    cols: int,
    width: int,
    patch: int,
    device: torch.device,
    base: BaseClip = BaseClip(),  # noqa: B008  (immutable)
) -> Tensor:
    """The table for a grid of tokens on a device: f32 [N,D], made once and kept. Do not write into it."""
    # A tensor born under inference_mode could not be used in training later, and this one is kept.
    with torch.inference_mode(False):
        match rule:
            case "sincos":
                table = sincos_table(frames * rows * cols, width)
            case "interpolated":
                table = interpolated_table(
                    frames=frames,
                    rows=rows,
                    cols=cols,
                    width=width,
                    base_frames=base.frames,
                    base_grid=base.side // patch,
                )
            case _:
                assert_never(rule)
        return table.to(device)
