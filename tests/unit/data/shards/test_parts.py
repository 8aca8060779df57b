"""The known parts of a block: what is missing, what is read, and how the cache keeps them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umt_ds.data.shards.parts import Parts

SIZE = 60
BLOCK = random.Random(0).randbytes(SIZE)

spans = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda span: (min(span), max(span)))


def known_of(chosen: list[tuple[int, int]]) -> tuple[Parts, list[bool]]:
    """These spans of BLOCK put in one after another; and which bytes are known, by a loop."""
    parts, known = Parts(), [False] * SIZE
    for start, end in chosen:
        parts = parts.put([(start, BLOCK[start:end])])
        known[start:end] = [True] * (end - start)
    return parts, known


@given(st.lists(spans, max_size=8), spans)
def test_what_is_missing_is_what_was_not_put_in(chosen: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    parts, known = known_of(chosen)
    gaps = parts.missing(*asked)
    assert [n for gap in gaps for n in range(*gap)] == [n for n in range(*asked) if not known[n]]
    if not gaps:
        assert parts.read(*asked) == BLOCK[slice(*asked)]


@given(st.lists(spans, max_size=8))
def test_parts_are_joined_and_come_back_from_the_cache(chosen: list[tuple[int, int]]) -> None:
    parts, known = known_of(chosen)
    assert all(
        first + len(data) < after for (first, data), (after, _) in zip(parts.known, parts.known[1:], strict=False)
    )
    assert sum(len(data) for _, data in parts.known) == sum(known)
    assert Parts.unpacked(parts.packed(), size=SIZE) == parts


def test_known_bytes_stay_whatever_comes_later() -> None:
    parts = Parts().put([(10, b"abc")]).put([(8, b"xxxxxxx")])
    assert parts.known == ((8, b"xxabcxx"),)


@given(st.lists(spans, min_size=1, max_size=4), st.data())
def test_a_damaged_file_of_the_cache_is_none_or_parts_that_fit(
    chosen: list[tuple[int, int]], data: st.DataObject
) -> None:
    packed = bytearray(known_of(chosen)[0].packed())
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(packed), bytes(packed[:place])):
        parts = Parts.unpacked(damaged, size=SIZE)
        assert parts is None or all(first + len(part) <= SIZE for first, part in parts.known)


@pytest.mark.parametrize("whole", [b"", BLOCK, b"umtP", b"umtP" + b"\xff" * 4])
def test_a_block_that_an_earlier_version_kept_whole_is_not_taken_for_parts(whole: bytes) -> None:
    assert Parts.unpacked(whole, size=SIZE) is None
