"""Items of sets by their numbers, against listings of them one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.clip import Clip, Listing
from data_prep.leaks.exclusion import KeyList, exclude
from data_prep.making.selection import write_selection
from data_prep.sources.set_items import SetItems, list_items, split_items
from data_prep.sources.sets import list_sets, split
from tests.support.shards import key_of_sample, write_shards
from umt_ds.data.shards.items import Item, write_items
from umt_ds.data.shards.manifest import Manifest, Part, SetFile, load_manifest
from umt_ds.data.shards.records import sha256_of
from umt_ds.data.shards.source import ShardSource
from umt_ds.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets, a table of some items of both, and one with keys of its own over the first."""
    folder = tmp_path_factory.mktemp("sets")
    write_shards(folder / "a", (5, 4, 6))
    write_shards(folder / "b", (3, 1), first=15)
    both = list_items([folder / "a", folder / "b"], verb="merge")
    stays = (np.arange(15) % 4 != 1, np.array([True, False, True, True]))
    write_selection(replace(both, stays=stays), folder / "some", name="some")
    (folder / "questions").mkdir()
    items = [Item(0, 1, "x"), Item(0, 1, "x#1"), Item(2, 3, "y"), Item(2, 0, None)]
    write_items(folder / "questions" / "items.arrow", items, num_shards=3)
    file = folder / "questions" / "items.arrow"
    told = SetFile(file.stat().st_size, sha256_of(file))
    part = Part("../a", load_manifest(folder / "a").fingerprint, 15)
    Manifest("questions", "frames", (), items=told, num_items=4, parts=(part,)).save(folder / "questions")
    return folder


def one_by_one(folder: Path, names: tuple[str, ...]) -> Listing:
    """Every item as a clip, whose row is its number."""
    clips: list[Clip] = []
    for name in names:
        source = ShardSource(folder / name)
        clips += [Clip(source.key(ref), name, extra={"row": n}) for n, ref in enumerate(source.refs())]
    return Listing(folder, tuple(clips), "sample")


def chosen(items: SetItems) -> set[tuple[str, int]]:
    return {
        ((items.root / name).name, number)
        for name, stays in zip(items.sets, items.stays, strict=True)
        for number in np.flatnonzero(stays).tolist()
    }


def error_of(make: Callable[[], object]) -> str:
    try:
        make()
    except DataError as error:
        return error.what
    return ""


NAMES = (("a",), ("a", "b"), ("some",), ("questions", "b"), ("b", "questions"))
LINES = [key_of_sample(number) for number in range(19)] + ["x", "y", "nobody"]


@given(
    names=st.sampled_from(NAMES),
    excluded=st.lists(st.lists(st.sampled_from(LINES), unique=True, max_size=12), max_size=2),
    limit=st.none() | st.integers(1, 20),
)
def test_the_items_left_are_those_of_a_listing_one_by_one(
    folder: Path, names: tuple[str, ...], excluded: list[list[str]], limit: int | None
) -> None:
    lists = [KeyList(f"{number}.txt", {key: n for n, key in enumerate(keys)}) for number, keys in enumerate(excluded)]
    given_sets = [folder / name for name in names]
    refused = error_of(lambda: exclude(one_by_one(folder, names), lists))
    assert error_of(lambda: list_items(given_sets, lists=lists, verb="merge")) == refused
    if refused:
        return
    expected = exclude(one_by_one(folder, names), lists)
    items = list_items(given_sets, lists=lists, verb="merge")
    in_order = items.first_in_order(limit)
    assert chosen(in_order) == {(c.source, c.extra["row"]) for c in expected.first_in_order(limit).clips}
    assert items.notes == expected.notes
    assert items.about.get("excluded") == expected.about.get("excluded")
    left_out = sorted((one.key, one.reason) for one in items.left_out)
    assert left_out == sorted((one.key, one.reason) for one in expected.left_out)


def test_two_items_of_one_key_are_told_as_of_a_listing(folder: Path) -> None:
    names = ("a", "some")
    with pytest.raises(DataError) as expected:
        one_by_one(folder, names).first_in_order()
    with pytest.raises(DataError) as found:
        list_items([folder / name for name in names], verb="merge").first_in_order()
    assert found.value.what == expected.value.what
    assert "11 keys belong to several samples" in found.value.what


@pytest.mark.parametrize("seed", [0, 1])
def test_a_split_has_the_sides_of_a_split_of_samples(folder: Path, seed: int) -> None:
    sides = split_items(list_items([folder / "a"], verb="split"), share=0.4, seed=seed)
    copied = split(list_sets([folder / "a"], verb="split"), share=0.4, seed=seed)
    for items, listing in zip(sides, copied, strict=True):
        keys = [clip.key for clip in one_by_one(folder, ("a",)).clips]
        assert {keys[number] for _, number in chosen(items)} == {clip.key for clip in listing.clips}
        assert (items.about["split"], items.notes) == (listing.about["split"], listing.notes)
