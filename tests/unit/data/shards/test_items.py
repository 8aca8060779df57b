"""Tables of items: which items are where, against lists written out; and a set that is read through one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.feather
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.shards import key_of_sample, write_shards
from umt_ds.data.clips import read_clip
from umt_ds.data.shards.items import AllSamples, ArrowItems, Item, JoinedItems, SelectedItems, ranges_of, write_items
from umt_ds.data.shards.manifest import Manifest, Part, SetFile, load_manifest, load_shards
from umt_ds.data.shards.records import sha256_of
from umt_ds.data.shards.source import ShardSource, rows_name
from umt_ds.errors import DataError, DecodeError

COUNTS = st.lists(st.integers(0, 5), min_size=1, max_size=6)


def listed(table: AllSamples | SelectedItems | JoinedItems) -> list[tuple[int, int]]:
    """Shard and row of every item, in order: one by one, and a shard at a time."""
    items = [table.item(shard, nth) for shard, count in enumerate(table.counts) for nth in range(count)]
    found = [(item.shard, item.row) for item in items]
    assert found == [(shard, row) for shard in range(len(table.counts)) for row in table.rows(shard).tolist()]
    return found


@given(counts=COUNTS, data=st.data())
def test_selected_items_are_those_of_the_list(counts: list[int], data: st.DataObject) -> None:
    everything = AllSamples(counts)
    chosen = sorted(data.draw(st.sets(st.integers(0, max(0, sum(counts) - 1)), max_size=sum(counts))))
    chosen = chosen if sum(counts) else []
    selected = SelectedItems(everything, ranges_of(chosen))
    assert listed(selected) == [listed(everything)[number] for number in chosen]
    again = SelectedItems(selected, ranges_of(range(0, len(chosen), 2)))
    assert listed(again) == listed(selected)[::2]


@given(first=COUNTS, second=COUNTS)
def test_joined_items_follow_each_other(first: list[int], second: list[int]) -> None:
    joined = JoinedItems([AllSamples(first), AllSamples(second)])
    behind = [(shard + len(first), row) for shard, row in listed(AllSamples(second))]
    assert listed(joined) == listed(AllSamples(first)) + behind


def test_ranges_are_as_few_as_can_be() -> None:
    assert ranges_of([0, 1, 2, 5, 7, 8]).tolist() == [[0, 3], [5, 6], [7, 9]]
    assert ranges_of([]).shape == (0, 2)


ITEMS = (
    Item(0, 1, "a", None, {"caption": ["one", "two"], "label": 3}),
    Item(2, 0, "b", (1, 4), {"question": "what?", "answers": [{"text": "this", "weight": 0.5}]}),
    Item(0, 1, "a#1", None, {"label": 4}),
)


def table_in(folder: Path, items: tuple[Item, ...] = ITEMS) -> Path:
    """A table over a set of three shards, without `rows`."""
    base = write_shards(folder / "base")
    out = folder / "table"
    out.mkdir()
    write_items(out / "items.arrow", items, num_shards=3)
    file = SetFile((out / "items.arrow").stat().st_size, sha256_of(out / "items.arrow"))
    part = Part("../base", load_manifest(base).fingerprint, 15)
    Manifest("table", "frames", (), items=file, num_items=len(items), parts=(part,)).save(out)
    return out


def test_a_table_comes_back_as_it_was_written_by_shard(tmp_path: Path) -> None:
    write_items(tmp_path / "items.arrow", ITEMS, num_shards=3)
    table = ArrowItems(tmp_path / "items.arrow", (5, 4, 6), hint="make it again")
    assert table.counts == (2, 0, 1)
    assert [table.item(0, 0), table.item(0, 1), table.item(2, 0)] == [ITEMS[0], ITEMS[2], ITEMS[1]]


def test_pandas_and_others_read_it(tmp_path: Path) -> None:
    write_items(tmp_path / "items.arrow", ITEMS, num_shards=3)
    table = pyarrow.feather.read_table(tmp_path / "items.arrow")
    assert table.column("key").to_pylist() == ["a", "a#1", "b"]
    assert table.column("label").to_pylist() == [3, 4, None]


def test_values_of_different_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the values of 'label' are of different kinds"):
        write_items(tmp_path / "x", [Item(0, 0, "a", None, {"label": one}) for one in (1, ["b"])], num_shards=1)


def test_a_set_is_read_through_its_table(tmp_path: Path) -> None:
    out = table_in(tmp_path)
    source = ShardSource(out)
    assert len(source) == source.manifest.num_samples == 3
    assert [source.key(ref) for ref in source.refs()] == ["a", "a#1", "b"]
    clips = [read_clip(source, ref, choose=lambda n: [0, n - 1], with_record=True) for ref in source.refs()]
    assert [clip.record["label"] for clip in clips] == [3, 4, 9]  # 9: of the json
    assert clips[0].record["caption"] == ["one", "two"]
    assert [clip.frames[0, 0, 0, 0] for clip in clips] == [1, 1, 9]  # sample 1 of shard 0, sample 0 of shard 2
    assert [clip.frame_numbers for clip in clips] == [(0, 5), (0, 5), (1, 4)]
    assert len({clip.digest(0) for clip in clips}) == 3
    with pytest.raises(DataError, match=r"is a table over /.*/base: it has no tars of its own"):
        load_shards(out)


def test_what_is_asked_is_part_of_the_digest(tmp_path: Path) -> None:
    """Another caption under the same key and frames is another clip; where nobody asks for it, it is not."""

    def digests(name: str, caption: str, *, with_record: bool) -> int:
        folder = tmp_path / f"{name}-{caption}"
        out = table_in(folder, (Item(0, 1, "a", None, {"caption": caption}),))
        clip = read_clip(source := ShardSource(out), source.ref(0), choose=lambda n: [0], with_record=with_record)
        return clip.digest(0)

    assert digests("with", "x", with_record=True) != digests("with", "y", with_record=True)
    assert digests("without", "x", with_record=False) == digests("without", "y", with_record=False)


def test_a_part_that_the_sample_does_not_store_is_a_bad_sample(tmp_path: Path) -> None:
    source = ShardSource(table_in(tmp_path, (Item(0, 0, "a", (2, 6), {}),)))
    with pytest.raises(DecodeError, match="the item is frames 2 to 6, and its sample stores 6"):
        read_clip(source, source.ref(0), choose=lambda n: [0], with_record=False)


def selection(folder: Path, base: Path, chosen: list[int]) -> Path:
    """A set of some items of another one."""
    folder.mkdir()
    np.save(folder / rows_name(0), ranges_of(chosen))
    file = folder / rows_name(0)
    rows = SetFile(file.stat().st_size, sha256_of(file))
    there = load_manifest(base)
    Manifest("some", "frames", (), parts=(Part(f"../{base.name}", there.fingerprint, len(chosen), rows),)).save(folder)
    return folder


def test_some_items_of_a_set_and_of_a_table_are_a_set(tmp_path: Path) -> None:
    table = table_in(tmp_path)
    some = ShardSource(selection(tmp_path / "some", tmp_path / "base", [0, 4, 5, 14]))
    assert [some.key(ref) for ref in some.refs()] == [key_of_sample(number) for number in (0, 4, 5, 14)]
    assert some.counts == (2, 1, 1)
    of_table = ShardSource(selection(tmp_path / "fewer", table, [1, 2]))
    assert [of_table.key(ref) for ref in of_table.refs()] == ["a#1", "b"]
    fingerprints = {ShardSource(tmp_path / name).fingerprint for name in ("base", "table", "some", "fewer")}
    assert len(fingerprints) == 4


def test_a_set_that_changed_under_its_table_is_refused(tmp_path: Path) -> None:
    out = table_in(tmp_path)
    manifest = load_manifest(tmp_path / "base")
    replace(manifest, labels=("x",)).save(tmp_path / "base")
    with pytest.raises(DataError, match=r"has changed since .*table was made as a table over it") as raised:
        ShardSource(out)
    assert "make" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        (np.array([[0, 16]]), "no ranges of the items"),
        (np.array([[3, 2]]), "no ranges of the items"),
        (np.array([[-1, 2]]), "no ranges of the items"),
        (np.array([[0.0, 2.0]]), "no ranges of the items"),
        (np.array([0, 2]), "no ranges of the items"),
    ],
)
def test_rows_that_are_none_are_refused(tmp_path: Path, ranges: np.ndarray, said: str) -> None:
    write_shards(tmp_path / "base")
    some = selection(tmp_path / "some", tmp_path / "base", [0])
    np.save(some / rows_name(0), ranges)
    size = (some / rows_name(0)).stat().st_size
    record = json.loads((some / "manifest.json").read_text())
    record["parts"][0]["rows"]["bytes"] = size
    (some / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=said):
        ShardSource(some, look=False)


def test_a_byte_of_a_table_that_changed_is_found_when_it_is_opened(tmp_path: Path) -> None:
    out = table_in(tmp_path)
    some = selection(tmp_path / "some", out, [0, 2])
    for file, opened in ((some / rows_name(0), some), (out / "items.arrow", out)):
        whole = file.read_bytes()
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        with pytest.raises(DataError, match=f"{file.name} is not the file that the manifest names") as raised:
            ShardSource(opened)
        assert raised.value.hint == f"restore {opened}, or make it again"
        file.write_bytes(whole)
    assert len(ShardSource(some)) == 2
