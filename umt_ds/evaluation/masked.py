"""Held-out clips and what the mask leaves of them: what a reader wants to see before believing a run.

Shapes: T frames, H x W pixels, h x w patches per frame, S = h·w, V kept tokens.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from umt_ds.data.clips import Clip, read_clip
from umt_ds.data.order.frames import middle
from umt_ds.data.pixels.augment import centre_view
from umt_ds.data.shards.source import ShardSource
from umt_ds.masking import MaskPlan
from umt_ds.models.teachers import Teacher

_DARK = 0.22  # what is left of the light of a removed patch


@dataclass(frozen=True)
class MaskedClip:
    """pixels u8 [T,H,W,3]; keep i64 [V], over grid (h, w); attention f32 [T,S], None for teachers without any."""

    title: str
    pixels: Tensor
    keep: Tensor
    grid: tuple[int, int]
    attention: Tensor | None


def masked_clips(
    shards: Path,
    teacher: Teacher,
    plan: MaskPlan,
    *,
    frames: int,
    side: int,
    antialias: bool,
    seed: int,
    count: int = 3,
) -> list[MaskedClip]:
    """`count` clips, evenly spread over the set, under the masks that `plan` draws for step 0."""
    clips = _some_clips(shards, frames, count)
    views = [centre_view(clip.frames, side=side, antialias=antialias) for clip in clips]
    pixels = torch.stack([torch.from_numpy(view) for view in views])
    attention = teacher.attend(pixels.to(next(teacher.parameters()).device)).attention
    attention = None if attention is None else attention.float().cpu()  # [count,T,S]
    patches = teacher.grid[0] * teacher.grid[1]
    slots = torch.arange(len(clips))
    keep = plan.keep(attention, seed=seed, step=0, slots=slots, frames=frames, patches=patches)
    return [
        MaskedClip(_title(clip), pixels[i], keep[i], teacher.grid, None if attention is None else attention[i])
        for i, clip in enumerate(clips)
    ]


def shade_removed(pixels: Tensor, keep: Tensor, grid: tuple[int, int]) -> Tensor:
    """Kept patches as they are, removed ones dark and grey: u8 [T,H,W,3] to the same shape. keep: i64 [V]."""
    shown = torch.zeros(len(pixels) * grid[0] * grid[1])
    shown[keep] = 1.0
    visible = squares(shown.view(-1, *grid), like=pixels)[..., None] > 0  # [T,H,W,1]
    grey = pixels.float().mean(dim=-1, keepdim=True) * _DARK
    return torch.where(visible, pixels, grey.round().to(torch.uint8))


def squares(patches: Tensor, *, like: Tensor) -> Tensor:
    """A number a patch [T,h,w] as squares of the frames `like` [T,H,W,3]: [T,H,W]."""
    return F.interpolate(patches[:, None], size=like.shape[1:3], mode="nearest")[:, 0]


def _some_clips(shards: Path, frames: int, count: int) -> list[Clip]:
    """The middle clip of each of `count` equal parts of the set."""
    with closing(ShardSource(shards, max_open=2)) as source:
        refs = [source.ref(number) for number in middle(len(source), count=min(count, len(source)))]
        choose = partial(middle, count=frames)
        return [read_clip(source, ref, choose=choose, with_record=True, asked=("caption",)) for ref in refs]


def _title(clip: Clip) -> str:
    """Key and caption, on one line."""
    caption = clip.record.get("caption", "")
    text = caption if isinstance(caption, str) else str(next(iter(caption), ""))
    return f"{clip.key}: {text}"[:110] if text else clip.key
