"""Mixup and CutMix of groups of rows: against a loop written out, the distribution of the draws, and whose they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from umt_ds.config.tasks.recognition import MixingConfig
from umt_ds.tasks.recognition.box import Box
from umt_ds.tasks.recognition.mixing import (
    NOT_MIXED,
    Mix,
    cutmix_of,
    draw_mixes,
    mix_groups_,
    mix_of,
    symmetric_beta,
)

HEIGHT, WIDTH, GROUP = 12, 16, 4
MIXING = MixingConfig(mixup=0.8, cutmix=1.0, prob=0.9, switch=0.3, group=GROUP)


def draws(mixing: MixingConfig, slots: Tensor, *, seed: int = 1, step: int = 2) -> list[Mix]:
    return draw_mixes(mixing, seed=seed, step=step, slots=slots, height=HEIGHT, width=WIDTH)


def mixed_by_a_loop(pixels: Tensor, mixes: Sequence[Mix]) -> Tensor:
    """Pixel by pixel; [B,3,T,H,W]."""
    rows, group, out = len(pixels), len(pixels) // len(mixes), pixels.clone()
    for row in range(rows):
        mix, first = mixes[row // group], row // group * group
        partner = first + group - 1 - (row - first)
        for y in range(pixels.shape[-2]):
            for x in range(pixels.shape[-1]):
                mine, theirs = pixels[row, ..., y, x], pixels[partner, ..., y, x]
                if mix.box is None:
                    out[row, ..., y, x] = mix.share * mine + (1 - mix.share) * theirs
                elif mix.box.top <= y < mix.box.bottom and mix.box.left <= x < mix.box.right:
                    out[row, ..., y, x] = theirs
    return out


def test_groups_are_mixed_as_a_loop_over_their_pixels_does() -> None:
    cut = cutmix_of(0.6, y=3, x=15, height=HEIGHT, width=WIDTH)
    mixes = [Mix(0.3), cut, NOT_MIXED, Mix(0.85)]
    pixels, targets = torch.randn(16, 3, 2, HEIGHT, WIDTH), torch.rand(16, 5)
    got, got_targets = pixels.clone(), targets.clone()
    mix_groups_(got, got_targets, mixes)

    torch.testing.assert_close(got, mixed_by_a_loop(pixels, mixes), rtol=0, atol=1e-6)
    for row, target in enumerate(targets):
        share, first = mixes[row // 4].share, row // 4 * 4
        expected = share * target + (1 - share) * targets[first + 3 - (row - first)]
        torch.testing.assert_close(got_targets[row], expected, rtol=0, atol=1e-6)


def test_what_a_box_really_leaves_is_the_share_that_counts() -> None:
    """An odd side loses a pixel, and the frame cuts what lies outside."""
    assert cutmix_of(0.4, y=6, x=8, height=12, width=16) == Mix(0.5, Box(2, 10, 2, 14))
    for share in (0.05, 0.5, 0.99):
        mix = cutmix_of(share, y=0, x=WIDTH - 1, height=HEIGHT, width=WIDTH)
        assert mix.box is not None
        pasted = sum(1 for _ in range(mix.box.top, mix.box.bottom) for _ in range(mix.box.left, mix.box.right))
        assert mix.share == 1 - pasted / (HEIGHT * WIDTH)
        assert mix.share >= share


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 3.0])
def test_shares_have_the_moments_of_a_beta_distribution(alpha: float) -> None:
    """Mean ½, variance 1/(8α + 4), and the fourth central moment of Beta(α,α)."""
    u = torch.rand(40_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.tensor([symmetric_beta(alpha, *pair) for pair in u.tolist()], dtype=torch.float64) - 0.5
    variance = 1 / (8 * alpha + 4)
    fourth = 3 * variance**2 * (2 * alpha + 1) / (2 * alpha + 3)
    assert abs(x.mean()) < 4 * math.sqrt(variance / len(x))
    assert (x**2).mean() == pytest.approx(variance, rel=0.03)
    assert (x**4).mean() == pytest.approx(fourth, rel=0.03)


def test_with_alpha_1_every_share_is_as_likely() -> None:
    u = torch.rand(40_000, 2, generator=torch.Generator().manual_seed(1))
    counts = torch.histc(torch.tensor([symmetric_beta(1.0, *pair) for pair in u.tolist()]), bins=16, min=0, max=1)
    assert ((counts - 2500) ** 2 / 2500).sum() < 44  # chi², 15 degrees of freedom, p = 1e-4


@pytest.mark.parametrize("alpha", [1e-6, 1e9])
@pytest.mark.parametrize("u", [2.0**-24, 1 - 2.0**-24])
def test_a_share_is_a_number_from_0_to_1_for_any_alpha(alpha: float, u: float) -> None:
    assert 0 <= symmetric_beta(alpha, u, 0.3) <= 1


def test_parts_of_the_groups_are_mixed_and_cut_as_the_settings_say() -> None:
    groups = 4000
    found = draws(MIXING, torch.arange(groups * GROUP))
    mixed = [mix for mix in found if mix is not NOT_MIXED]
    cut = [mix for mix in mixed if mix.box is not None]
    assert len(mixed) / groups == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / groups))
    assert len(cut) / len(mixed) == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / groups))


@pytest.mark.parametrize(("off", "is_cut"), [("mixup", True), ("cutmix", False)])
def test_where_one_of_the_two_is_off_the_other_takes_all(off: str, is_cut: bool) -> None:
    mixing = MIXING.model_copy(update={off: 0.0, "prob": 1.0})
    assert {mix.box is not None for mix in draws(mixing, torch.arange(200 * GROUP))} == {is_cut}


def test_the_centre_of_a_box_is_any_pixel() -> None:
    mixing = MixingConfig(mixup=0.0, group=2)
    ends = [mix_of(mixing, [0, 0, 0.5, 0.25, place, place], height=10, width=10) for place in (1e-7, 1 - 1e-7)]
    assert [mix.box and (mix.box.top, mix.box.bottom) for mix in ends] == [(0, 3), (6, 10)], "centres 0 and 9, side 7"


def test_the_draw_belongs_to_the_first_slot_of_a_group() -> None:
    """However a step is cut into ranks and micro-batches."""
    whole = draws(MIXING, torch.arange(64))
    parts = [draws(MIXING, torch.arange(first, first + 16)) for first in range(0, 64, 16)]
    assert [mix for part in parts for mix in part] == whole
    assert len(set(whole)) > 10
    assert draws(MIXING, torch.arange(64), step=3) != whole
    assert draws(MIXING, torch.arange(64), seed=2) != whole
