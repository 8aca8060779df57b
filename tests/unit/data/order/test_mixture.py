"""Mixing sources: exact proportions in every block, order inside each source untouched."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umt_ds.data.order.mixture import MOST, Mixture, block_counts
from umt_ds.errors import ConfigError


@pytest.mark.parametrize(
    ("weights", "block", "counts"),
    [
        ([1, 1, 2], 8, [2, 2, 4]),
        ([1, 1, 1], 10, [4, 3, 3]),  # 3.33 each: the tie goes to the first
        ([0.5, 0.3, 0.2], 16, [8, 5, 3]),  # 8, 4.8, 3.2
        ([7.0], 4096, [4096]),
    ],
)
def test_block_counts_follow_the_largest_remainder(weights: list[float], block: int, counts: list[int]) -> None:
    assert block_counts(weights, block) == counts


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.5, 5), min_size=1, max_size=5), st.integers(0, 10**6), st.integers(0, 10**9))
def test_every_block_holds_exactly_its_share(weights: list[float], block_number: int, seed: int) -> None:
    mixture = Mixture(weights, seed=seed, block=64)
    sources = [mixture(draw)[0] for draw in range(block_number * 64, (block_number + 1) * 64)]
    assert [Counter(sources)[i] for i in range(len(weights))] == block_counts(weights, 64)


def test_each_source_is_drawn_without_gap_or_repeat() -> None:
    mixture = Mixture([3, 2, 1], seed=4, block=32)
    counted = Counter[int]()  # the oracle: count while walking
    for draw in range(320):
        source, k = mixture(draw)
        assert k == counted[source]
        counted[source] += 1


def test_sources_are_interleaved_differently_in_each_block() -> None:
    mixture = Mixture([1, 1], seed=4, block=64)
    blocks = [[mixture(b * 64 + i)[0] for i in range(64)] for b in range(3)]
    assert blocks[0] != blocks[1] != blocks[2]
    assert 15 < sum(a != b for a, b in zip(blocks[0], blocks[0][1:], strict=False)) < 50


def test_a_single_source_keeps_its_own_numbering() -> None:
    mixture = Mixture([0.3], seed=9)
    assert [mixture(draw) for draw in (0, 1, 4095, 4096, 10**9)] == [(0, draw) for draw in (0, 1, 4095, 4096, 10**9)]


def counts_as_they_were(weights: list[float], block: int) -> list[int] | None:
    """What `block_counts` gave when a block could not grow; None where it refused. Runs resume by these numbers."""
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * block
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(-(exact - counts), kind="stable")
    counts[largest[: block - int(counts.sum())]] += 1
    return None if counts.min() == 0 else [int(count) for count in counts]


@given(st.lists(st.floats(1e-4, 1e6) | st.integers(1, 10**6), min_size=1, max_size=40), st.sampled_from([16, 4096]))
def test_whatever_was_accepted_keeps_its_order_and_what_was_refused_gets_a_longer_block(
    weights: list[float], block: int
) -> None:
    before = counts_as_they_were(weights, block)
    try:
        counts = block_counts(weights, block)
    except ConfigError:
        assert before is None
        assert min(weights) / sum(weights) < 1 / MOST
        return
    assert before is None or counts == before
    assert sum(counts) in [block << k for k in range(17)]
    for weight, count in zip(weights, counts, strict=True):
        assert count >= 1
        assert abs(count - weight / sum(weights) * sum(counts)) < 1.01


def test_a_small_source_is_drawn_rarely() -> None:
    weights = [2_490_000.0, 2_880_000.0, 860_000.0, 567_000.0, *[300.0] * 56]
    mixture = Mixture(weights, seed=1)
    drawn = Counter(mixture(draw)[0] for draw in range(sum(mixture.counts)))
    assert min(drawn.values()) >= 1
    assert max(drawn[source] for source in range(4, 60)) <= 2
    assert drawn[1] / sum(drawn.values()) == pytest.approx(2_880_000 / sum(weights), rel=1e-3)


def test_a_refused_weight_is_told_by_name_with_the_least_that_goes() -> None:
    names = ["large", *(f"small-{number}" for number in range(60))]
    with pytest.raises(ConfigError, match=r"leave small-0, small-1, .* and 55 more without a single draw") as caught:
        Mixture([1000.0, *[1e-6] * 60], seed=0, names=names)
    text = str(caught.value)
    assert len(text) < 400
    assert "the least is 0.000954" in text
    assert min(block_counts([1000.0, *[0.000954] * 60], 4096)) >= 1
    with pytest.raises(ConfigError, match=r"must be positive numbers \(small-0: nan\)"):
        Mixture([1.0, float("nan")], seed=0, names=names[:2])


@pytest.mark.parametrize("weights", [[], [1, 0], [1, -1], [1, float("nan")], [1, 1e-9], [1e308, 1e308]])
def test_weights_that_give_no_draw_are_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="weights"):
        Mixture(weights, seed=0)
