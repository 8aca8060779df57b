"""Masks: counts, order, independence of the batch, and the distribution of a draw without replacement."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from umt_ds.errors import ConfigError
from umt_ds.kernels.keep_tokens.reference import keep_highest
from umt_ds.kernels.philox import Purpose, uniform
from umt_ds.masking import MaskKind, MaskPlan, keep_random, keep_tube

KINDS: tuple[MaskKind, ...] = ("semantic", "random", "tube")


def keep_of(plan: MaskPlan, attention: Tensor, *, slots: Tensor, seed: int = 3, step: int = 5) -> Tensor:
    frames, patches = attention.shape[1:]
    return plan.keep(attention, seed=seed, step=step, slots=slots, frames=frames, patches=patches)


@pytest.mark.parametrize(("kind", "visible"), [("semantic", 320), ("tube", 320), ("random", 314)])
def test_eight_frames_of_196_patches_at_80_percent(kind: MaskKind, visible: int) -> None:
    plan = MaskPlan(kind, 0.8)
    assert plan.visible(8, 196) == visible
    assert keep_of(plan, torch.rand(2, 8, 196), slots=torch.arange(2)).shape == (2, visible)


@pytest.mark.parametrize("kind", ["semantic", "tube"])
def test_semantic_and_tube_keep_forty_of_196_in_every_frame(kind: MaskKind) -> None:
    keep = keep_of(MaskPlan(kind, 0.8), torch.rand(2, 8, 196), slots=torch.arange(2))
    for clip in keep:
        assert torch.bincount(clip // 196, minlength=8).tolist() == [40] * 8
    assert MaskPlan(kind, 0.8).equal_frames


def test_a_tube_keeps_the_same_patches_in_every_frame() -> None:
    keep = keep_of(MaskPlan("tube", 0.5), torch.rand(3, 4, 10), slots=torch.arange(3))
    patches = (keep % 10).view(3, 4, 5)
    assert (patches == patches[:, :1]).all()


def test_random_counts_over_the_whole_clip_not_per_frame() -> None:
    keep = keep_of(MaskPlan("random", 0.8), torch.rand(1, 8, 196), slots=torch.arange(1))
    assert len(set(torch.bincount(keep[0] // 196, minlength=8).tolist())) > 1
    assert not MaskPlan("random", 0.8).equal_frames


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    ratio=st.floats(0, 0.999),
    clips=st.integers(1, 4),
    frames=st.integers(1, 4),
    patches=st.integers(1, 20),
    seed=st.integers(0, 2**63),
    cut=st.integers(0, 4),
)
def test_any_mask_is_counted_sorted_unique_in_range_and_the_same_however_the_batch_is_cut(
    kind: MaskKind, ratio: float, clips: int, frames: int, patches: int, seed: int, cut: int
) -> None:
    plan = MaskPlan(kind, ratio)
    slots = torch.arange(17, 17 + clips)
    generator = torch.Generator().manual_seed(seed)
    attention = torch.rand(clips, frames, patches, generator=generator)

    keep = keep_of(plan, attention, slots=slots, seed=seed)

    assert keep.dtype == torch.int64
    assert keep.shape == (clips, plan.visible(frames, patches))
    assert plan.visible(frames, patches) >= 1
    assert (keep.diff(dim=1) > 0).all()  # sorted, hence also unique
    assert keep.min() >= 0
    assert keep.max() < frames * patches
    parts = [keep_of(plan, attention[part], slots=slots[part], seed=seed) for part in (slice(cut), slice(cut, None))]
    assert torch.equal(torch.cat(parts), keep)


@pytest.mark.parametrize("kind", KINDS)
def test_step_and_slot_change_the_mask(kind: MaskKind) -> None:
    attention = torch.ones(2, 4, 50)
    keep = keep_of(MaskPlan(kind, 0.8), attention, slots=torch.tensor([1, 2]))
    assert not torch.equal(keep[0], keep[1])
    assert not torch.equal(keep, keep_of(MaskPlan(kind, 0.8), attention, slots=torch.tensor([1, 2]), step=6))


def plackett_luce(weights: list[float], count: int) -> list[float]:
    """Chance of each index to be among `count` draws without replacement, by enumeration of all orders."""
    chance = [0.0] * len(weights)
    for order in itertools.permutations(range(len(weights)), count):
        p, left = 1.0, sum(weights)
        for index in order:
            p, left = p * weights[index] / left, left - weights[index]
        for index in order:
            chance[index] += p
    return chance


@pytest.mark.parametrize("scale", [1.0, 0.02])  # attention rows need no particular sum
def test_semantic_draws_in_proportion_to_attention_without_replacement(scale: float) -> None:
    weights, count, draws = [0.05, 0.4, 0.1, 0.25, 0.2], 2, 40_000
    noise = uniform(0, 0, torch.arange(draws), 5, Purpose.MASK)[:, None]
    attention = torch.tensor(weights).expand(draws, 1, 5) * scale

    keep = keep_highest(attention, visible=count, noise=noise)

    frequency = torch.bincount(keep.flatten(), minlength=5) / draws
    for seen, p in zip(frequency.tolist(), plackett_luce(weights, count), strict=True):
        assert abs(seen - p) < 4 * math.sqrt(p * (1 - p) / draws)


def test_each_frame_follows_its_own_attention() -> None:
    attention = torch.zeros(1, 2, 4)
    attention[0, 0, :2] = 1
    attention[0, 1, 2:] = 1
    keep = keep_highest(attention, visible=2, noise=torch.rand(1, 2, 4))
    assert keep.tolist() == [[0, 1, 4 + 2, 4 + 3]]


def test_zero_attention_comes_last_even_behind_the_smallest_float() -> None:
    attention = torch.zeros(1, 1, 6)
    attention[0, 0, [2, 4]] = 1e-45  # the smallest float32
    noise = torch.tensor([[[1 - 2**-24, 2**-24] * 3]])  # the luckiest and the unluckiest draw
    assert keep_highest(attention, visible=2, noise=noise).tolist() == [[2, 4]]
    assert {2, 4} < set(keep_highest(attention, visible=4, noise=noise)[0].tolist())


def test_among_zero_attention_the_choice_is_uniform_not_the_top_left_corner() -> None:
    draws = 4000
    noise = uniform(0, 0, torch.arange(draws), 8, Purpose.MASK)[:, None]
    keep = keep_highest(torch.zeros(draws, 1, 8), visible=2, noise=noise)
    frequency = torch.bincount(keep.flatten(), minlength=8) / draws
    assert (frequency - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / draws)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_attention_that_is_no_probability_still_gives_valid_indices_and_always_the_same(bad: float) -> None:
    attention = torch.rand(1, 2, 9)
    attention[0, 0, ::2] = bad
    attention[0, 1] = bad
    noise = uniform(0, 0, torch.arange(1), 18, Purpose.MASK).view(1, 2, 9)
    keep = keep_highest(attention, visible=3, noise=noise)
    assert torch.bincount(keep[0] // 9, minlength=2).tolist() == [3, 3]
    assert (keep.diff() > 0).all()
    assert torch.equal(keep, keep_highest(attention, visible=3, noise=noise))
    if not math.isinf(bad):
        assert set(keep[0, :3].tolist()) <= {1, 3, 5, 7}


def test_half_precision_attention_is_accepted() -> None:
    attention, noise = torch.rand(1, 1, 9).half(), torch.rand(1, 1, 9)
    keep = keep_highest(attention, visible=4, noise=noise)
    assert torch.equal(keep, keep_highest(attention.float(), visible=4, noise=noise))


def test_ties_go_to_the_lower_index() -> None:
    assert keep_random(torch.full((1, 100), 0.5), visible=3).tolist() == [[0, 1, 2]]
    assert keep_tube(torch.full((1, 5), 0.5), frames=2, visible_per_frame=2).tolist() == [[0, 1, 5, 6]]


def test_a_semantic_mask_without_attention_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="class-token attention") as caught:
        MaskPlan("semantic", 0.8).keep(None, seed=0, step=0, slots=torch.arange(1), frames=2, patches=4)
    assert "tube or random" in str(caught.value)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, math.nan])
def test_a_ratio_that_is_no_share_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match="cannot hide a share of"):
        MaskPlan("random", ratio)


def test_without_a_mask_everything_is_kept_in_order() -> None:
    keep = keep_of(MaskPlan("random", 0.0), torch.rand(2, 3, 4), slots=torch.arange(2))
    assert keep.tolist() == [list(range(12))] * 2


def test_the_draws_of_a_plan_are_the_mask_numbers_of_its_slots() -> None:
    slots, attention = torch.tensor([9, 4]), torch.rand(2, 3, 10)
    noise = uniform(3, 5, slots, 30, Purpose.MASK)
    expected = {
        "semantic": keep_highest(attention, visible=5, noise=noise.view(2, 3, 10)),
        "random": keep_random(noise, visible=15),
        "tube": keep_tube(uniform(3, 5, slots, 10, Purpose.MASK), frames=3, visible_per_frame=5),
    }
    for kind in KINDS:
        assert torch.equal(keep_of(MaskPlan(kind, 0.5), attention, slots=slots), expected[kind])
