"""Mixing sources: exact proportions in every block, order inside each source untouched."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umt_ds.data.mixture import Mixture, block_counts
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


@pytest.mark.parametrize("weights", [[], [1, 0], [1, -1], [1, float("nan")], [1, 1e-9]])
def test_weights_that_give_no_draw_are_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="weights"):
        Mixture(weights, seed=0)
