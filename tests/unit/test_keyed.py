"""Keyed randomness: the stream never changes, and what is drawn from it is what it says."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.ranks import environment
from umt_ds.keyed import Stream, add_digests, digest64, key_of, permutation

SEEDS = st.integers(0, 2**63)


def test_the_stream_is_the_one_that_earlier_runs_were_drawn_from() -> None:
    """Pinned once. A change here changes the order and the crops of every run: resumes would not be exact."""
    assert key_of(0, "augment", 7) == 18405463860494141131
    stream = Stream(0, "augment", 7)
    assert [stream.raw() for _ in range(3)] == [13621745326163346532, 16579500721804075404, 941697759426243785]
    stream = Stream(0, "augment", 7)
    assert [stream.integer(10) for _ in range(8)] == [7, 8, 0, 2, 5, 8, 3, 0]
    assert stream.uniform() == 0.017254121475608453
    assert stream.uniform(-1, 3) == 0.4475076559955329
    assert Stream(1, "d").distinct(20, 5) == [1, 7, 10, 13, 14]
    assert permutation(10, 0, "order", 1).tolist() == [7, 5, 3, 4, 1, 2, 0, 6, 9, 8]
    assert digest64(3, "clip", b"ab") == 10086142951478445476


def test_another_process_with_another_hash_seed_draws_the_same() -> None:
    code = "from umt_ds.keyed import Stream; print(Stream(3, 'mask', 11).raw())"
    for hash_seed in ("1", "2"):
        env = {**environment(), "PYTHONHASHSEED": hash_seed}
        told = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True, text=True)
        assert int(told.stdout) == Stream(3, "mask", 11).raw()


def test_keys_of_different_seeds_paths_and_draws_differ() -> None:
    keys = [key_of(s, p, d) for s in range(10) for p in ("augment", "frames", "caption") for d in range(100)]
    assert len(set(keys)) == len(keys)
    assert key_of(1, "a", 23) != key_of(12, "a", 3), "numbers must not run into one another"
    assert key_of(0, "a", 1, 23) != key_of(0, "a", 12, 3)
    assert key_of(0) != key_of(0, "a")


@given(n=st.integers(1, 2**63), seed=SEEDS)
def test_an_integer_lies_in_its_range(n: int, seed: int) -> None:
    assert 0 <= Stream(seed, "i").integer(n) < n


def test_every_integer_of_a_small_range_comes_up_equally_often() -> None:
    stream = Stream(0, "dice")
    counts = [0] * 6
    for _ in range(6000):
        counts[stream.integer(6)] += 1
    # chi squared with 5 degrees of freedom: above 25.7 in one of 10 000 streams (and this one is fixed)
    assert sum((count - 1000) ** 2 / 1000 for count in counts) < 25.7


def test_an_integer_out_of_none_is_our_bug() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Stream(0, "i").integer(0)


@given(seed=SEEDS)
def test_a_uniform_number_lies_in_its_interval(seed: int) -> None:
    stream = Stream(seed, "u")
    assert all(0 <= stream.uniform() < 1 for _ in range(20))
    assert all(-2 <= stream.uniform(-2, 5) < 5 for _ in range(20))


@given(n=st.integers(0, 300), seed=SEEDS)
def test_a_permutation_is_a_bijection(n: int, seed: int) -> None:
    assert sorted(permutation(n, seed, "p").tolist()) == list(range(n))


def test_permutations_of_different_keys_differ() -> None:
    orders = {tuple(permutation(50, seed, "p", pass_).tolist()) for seed in range(5) for pass_ in range(5)}
    assert len(orders) == 25


@given(n=st.integers(1, 100), seed=SEEDS, data=st.data())
def test_distinct_numbers_are_distinct_sorted_and_in_range(n: int, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n))
    chosen = Stream(seed, "d").distinct(n, count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == count
    assert set(chosen) <= set(range(n))


def test_a_digest_tells_where_one_part_ends_and_the_next_begins() -> None:
    assert digest64("ab", "c") != digest64("a", "bc")
    assert digest64("a") != digest64("a", "")


@given(words=st.lists(st.integers(0, 2**64 - 1), max_size=8), data=st.data())
def test_the_digest_of_a_union_does_not_depend_on_order_or_grouping(words: list[int], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(words)))
    shuffled = data.draw(st.permutations(words))
    assert add_digests(*shuffled) == add_digests(add_digests(*words[:cut]), add_digests(*words[cut:]))
    assert 0 <= add_digests(*words) < 2**64
