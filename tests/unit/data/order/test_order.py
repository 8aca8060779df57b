"""Order inside one source: a bijection in each pass, and nothing but a function."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umt_ds.data.order.order import Order
from umt_ds.data.shards.records import SampleRef
from umt_ds.errors import DataError

shard_counts = st.lists(st.integers(0, 7), min_size=1, max_size=9).filter(lambda counts: sum(counts) > 0)


@settings(max_examples=150, deadline=None)
@given(shard_counts, st.integers(1, 12), st.integers(0, 5), st.integers(0, 2**40))
def test_one_pass_shows_every_sample_once(counts: list[int], window: int, pass_: int, seed: int) -> None:
    order = Order(counts, seed=seed, window=window)
    n = sum(counts)
    shown = [order(k) for k in range(pass_ * n, (pass_ + 1) * n)]
    everything = {(shard, row) for shard, count in enumerate(counts) for row in range(count)}
    assert sorted((ref.shard, ref.row) for ref in shown) == sorted(everything)
    assert {ref.pass_ for ref in shown} == {pass_}


@settings(max_examples=50, deadline=None)
@given(shard_counts, st.integers(1, 12), st.randoms(use_true_random=False))
def test_order_depends_on_nothing_but_its_arguments(counts: list[int], window: int, chance: random.Random) -> None:
    ks = list(range(3 * sum(counts)))
    forwards = [Order(counts, seed=5, window=window)(k) for k in ks]
    scattered = Order(counts, seed=5, window=window)
    chance.shuffle(ks)
    assert all(scattered(k) == forwards[k] for k in ks)


@settings(max_examples=50, deadline=None)
@given(shard_counts, st.integers(1, 4), st.data())
def test_draws_of_one_window_share_at_most_w_shards(counts: list[int], window: int, data: st.DataObject) -> None:
    order = Order(counts, seed=1, window=window)
    k = data.draw(st.integers(0, 3 * sum(counts) - 1))
    span = order.window_of(k)
    assert k in span
    assert all(order.window_of(other) == span for other in span)
    assert len({order(other).shard for other in span}) <= window


def test_passes_and_seeds_give_different_orders() -> None:
    order = Order([50, 50, 50, 50], seed=1, window=2)
    passes = [[(r.shard, r.row) for r in map(order, range(p * 200, (p + 1) * 200))] for p in range(3)]
    other_seed = [(r.shard, r.row) for r in map(Order([50] * 4, seed=2, window=2), range(200))]
    assert len({tuple(p) for p in [*passes, other_seed]}) == 4


def test_shuffling_is_thorough_within_a_window() -> None:
    order = Order([500, 500], seed=3, window=2)
    places = np.array([order(k).shard * 500 + order(k).row for k in range(1000)])
    assert abs(np.corrcoef(places, np.arange(1000))[0, 1]) < 0.1
    assert np.mean(np.diff(places) == 1) < 0.01


def test_the_order_never_changes_between_versions() -> None:
    """Checkpoints store only a step number: another order would silently break every resume."""
    order = Order([3, 2, 4], seed=7, window=2)
    assert [order(k) for k in range(4)] == [
        SampleRef(2, 3),
        SampleRef(2, 2),
        SampleRef(2, 1),
        SampleRef(0, 0),
    ]
    assert order(10**12) == SampleRef(0, 2, pass_=111_111_111_111)


def test_an_empty_source_is_refused() -> None:
    with pytest.raises(DataError, match="no samples"):
        Order([0, 0], seed=1)
