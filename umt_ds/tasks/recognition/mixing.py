"""Mixup and CutMix of whole clips, inside groups of rows that lie side by side in a step.

A row is mixed with its partner, the row found in reverse order in its group. The draws are keyed by (seed, step, first
slot of the group), so a run mixes the same rows on any number of ranks.

timm's `Mixup` is not used: it draws from NumPy's global generator, and its box of CutMix has the odd pixel that the
published one loses (1.0.31).

Source: METHOD.md, "Mixup and CutMix".

Shapes: B rows, G groups of B/G rows, T frames, H x W pixels, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from umt_ds.config.tasks.recognition import MixingConfig
from umt_ds.kernels.philox import Purpose, uniform
from umt_ds.tasks.recognition.box import Box

_DRAWS = 6  # for a group: whether, which of the two, two for the share, the centre of the box


@dataclass(frozen=True)
class Mix:
    """How the rows of a group are mixed. share: λ, what each keeps of itself and of its target; the rest is its
    partner's. box: where the partner's pixels are pasted (CutMix); None: all pixels are blended (mixup)."""

    share: float
    box: Box | None = None


NOT_MIXED = Mix(1.0)


def draw_mixes(
    mixing: MixingConfig | None, *, seed: int, step: int, slots: Tensor, height: int, width: int
) -> list[Mix]:
    """How each group is mixed; nothing where no rows are. slots: i64 [B] on the host, of all rows."""
    if mixing is None:
        return []
    assert len(slots) % mixing.group == 0, "the settings refuse a micro-batch of other sizes"
    drawn = uniform(seed, step, slots[:: mixing.group], _DRAWS, Purpose.MIXUP)  # [G,6]
    return [mix_of(mixing, numbers, height=height, width=width) for numbers in drawn.tolist()]


def mix_of(mixing: MixingConfig, drawn: Sequence[float], *, height: int, width: int) -> Mix:
    """What six numbers between 0 and 1 say of a group."""
    whether, which, first, second, y, x = drawn
    if whether >= mixing.prob:
        return NOT_MIXED
    if mixing.cutmix and (not mixing.mixup or which < mixing.switch):
        share = symmetric_beta(mixing.cutmix, first, second)
        return cutmix_of(share, y=int(y * height), x=int(x * width), height=height, width=width)
    return Mix(symmetric_beta(mixing.mixup, first, second))


def cutmix_of(share: float, *, y: int, x: int, height: int, width: int) -> Mix:
    """Paste a box around (y, x) that leaves `share` of a frame, or more: the frame may cut it, and an odd side loses a
    pixel. What it leaves is the share that counts."""
    side = math.sqrt(1 - share)
    up, across = int(height * side) // 2, int(width * side) // 2
    box = Box(max(0, y - up), min(height, y + up), max(0, x - across), min(width, x + across))
    return Mix(1 - box.area / (height * width), box)


def symmetric_beta(alpha: float, u: float, v: float) -> float:
    """Beta(α,α) from two uniform numbers of the open interval (0, 1), for any α > 0.

    (1 + t/√(2α + t²)) / 2 of a t with 2α degrees of freedom, t = √(2α(u^(-1/α) - 1)) · cos 2πv.
    Source: Bailey, "Polar generation of random variates with the t-distribution" (1994); Devroye, "Non-uniform random
    variate generation" (1986), IX.4. A closed form, so a platform differs from another one by rounding alone.
    """
    cosine = math.cos(2 * math.pi * v)
    spread = math.expm1(min(700.0, -math.log(u) / alpha))  # u^(-1/α) - 1; beyond 700, f64 ends and the share is 0 or 1
    return (1 + cosine / math.sqrt(cosine**2 + 1 / spread)) / 2


def mix_groups_(pixels: Tensor, targets: Tensor, mixes: Sequence[Mix]) -> None:
    """Mix the rows of each group in place: f32 [B,...,H,W], and f32 [B,C] by the same shares."""
    if not mixes:
        return
    for clips, labels, mix in zip(pixels.chunk(len(mixes)), targets.chunk(len(mixes)), mixes, strict=True):
        if mix.share == 1:
            continue
        if mix.box is None:
            clips.lerp_(clips.flip(0), 1 - mix.share)
        else:
            inside = mix.box.of(clips)
            inside.copy_(inside.flip(0))
        labels.lerp_(labels.flip(0), 1 - mix.share)
