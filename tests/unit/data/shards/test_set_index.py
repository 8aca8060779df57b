"""One mapped index of a whole set: it says what the shards' own indexes say, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pyarrow.feather
import pytest

from tests.support.shards import write_shards
from umt_ds.data.shards.manifest import Manifest, load_manifest
from umt_ds.data.shards.node_index import open_index, publish_index
from umt_ds.data.shards.records import index_path, load_index
from umt_ds.data.shards.set_index import INDEX, SetIndex
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.storage import as_path
from umt_ds.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set with an index of its own."""
    folder = write_shards(tmp_path / "shards")
    manifest = load_manifest(folder)
    replace(manifest, index=publish_index(folder, manifest.shards)).save(folder)
    return folder


def test_it_says_what_the_indexes_of_the_shards_say(folder: Path) -> None:
    index = open_index(folder, load_manifest(folder))
    for number, entry in enumerate(load_manifest(folder).shards):
        own = load_index(folder / entry.file)
        assert [index.key(number, row) for row in range(len(own))] == [own.key(row) for row in range(len(own))]
        assert [index.members(number, row) for row in range(len(own))] == [own.members(row) for row in range(len(own))]
        crcs = [own.crcs[start:end].tobytes() for start, end in pairwise(own.starts.tolist())]
        assert index.contents(number) == list(zip(own.keys.tolist(), crcs, strict=True))


def test_any_tool_that_reads_arrow_reads_it(folder: Path) -> None:
    table = pyarrow.feather.read_table(folder / INDEX)
    assert table.num_rows == 15
    assert [len(members) for members in table.column("members").to_pylist()] == [7] * 15


def test_a_set_of_an_earlier_version_gets_one_on_the_node_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_shards(tmp_path / "shards")
    assert load_manifest(folder).index is None
    first = ShardSource(folder)
    for shard in range(3):
        index_path(folder / f"tiny-{shard:06d}.tar").unlink()
    again = ShardSource(folder)
    assert [again.members(ref) for ref in again.refs()] == [first.members(ref) for ref in first.refs()]


def test_a_damaged_one_of_the_node_is_made_anew(tmp_path: Path, own_indexes: Callable[[], Path]) -> None:
    folder = write_shards(tmp_path / "shards")
    wanted = [ShardSource(folder).members(ref) for ref in ShardSource(folder).refs()]
    (made,) = own_indexes().glob("made-*.arrow")
    made.write_bytes(b"of another version")
    assert [ShardSource(folder).members(ref) for ref in ShardSource(folder).refs()] == wanted


def test_one_that_is_missing_in_a_store_is_told_so_and_half_a_copy_is_removed(
    folder: Path, own_indexes: Callable[[], Path]
) -> None:
    there = as_path(f"memory://sets/{folder.parent.name}")
    for path in folder.iterdir():
        (there / path.name).write_bytes(path.read_bytes())
    manifest = load_manifest(there)
    assert manifest.index is not None
    half = own_indexes() / f"{manifest.index.sha256}.arrow.other-1.partial"
    half.write_bytes(b"half")
    assert open_index(there, manifest).key(0, 0) == "clip-0000"
    assert not half.exists()
    (own_indexes() / f"{manifest.index.sha256}.arrow").unlink()
    (there / INDEX).unlink()
    with pytest.raises(DataError, match=r"index\.arrow cannot be read: No such file"):
        open_index(there, manifest)


def test_the_same_indexes_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    manifest = load_manifest(folder)
    before = (folder / INDEX).read_bytes()
    assert publish_index(folder, manifest.shards) == manifest.index
    assert (folder / INDEX).read_bytes() == before


def test_it_is_no_part_of_the_fingerprint_and_says_its_format(folder: Path) -> None:
    manifest = load_manifest(folder)
    assert replace(manifest, index=None).fingerprint == manifest.fingerprint
    assert '"format": 2' in (folder / "manifest.json").read_text()


def opened(folder: Path, manifest: Manifest) -> SetIndex:
    return SetIndex(folder / INDEX, manifest.shards, hint="do this")


def test_a_byte_that_changed_is_found_before_it_is_used(folder: Path) -> None:
    """Wherever it lies: in the tables, in their frame, or in the list of pages."""
    manifest, whole = load_manifest(folder), (folder / INDEX).read_bytes()
    good = [opened(folder, manifest).members(0, row) for row in range(5)]
    unseen = 0
    for place in range(0, len(whole), 37):
        (folder / INDEX).write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            index = opened(folder, manifest)
            found = [index.members(0, row) for row in range(5)]
        except DataError:
            continue
        assert found == good, place  # padding, and what belongs to other shards
        unseen += 1
    assert unseen < len(whole) / 37 * 0.9


@pytest.mark.parametrize("of_an_earlier_version", [False, True])
def test_a_key_that_changed_is_found_where_all_keys_are_read(folder: Path, of_an_earlier_version: bool) -> None:
    if of_an_earlier_version:
        without_check_of_keys(folder / INDEX)
    manifest, whole = load_manifest(folder), (folder / INDEX).read_bytes()
    assert opened(folder, manifest).keys(0) == [f"clip-{number:04d}" for number in range(5)]
    (folder / INDEX).write_bytes(whole.replace(b"clip-0003", b"clip-9993"))
    with pytest.raises(DataError, match=r"of tiny-000000\.tar ha(s|ve) changed since (it was|they were) written"):
        opened(folder, manifest).keys(0)


def without_check_of_keys(path: Path) -> None:
    """As an earlier version wrote it."""
    file = pyarrow.ipc.open_file(path.read_bytes())
    pages = [file.get_batch_with_custom_metadata(number) for number in range(file.num_record_batches)]
    with pyarrow.ipc.new_file(str(path), file.schema) as writer:
        for batch, notes in pages:
            writer.write_batch(batch, custom_metadata={"suffixes": notes[b"suffixes"]})


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_a_file_that_was_cut_is_refused(folder: Path, kept: float) -> None:
    whole = (folder / INDEX).read_bytes()
    (folder / INDEX).write_bytes(whole[: int(kept * len(whole)) if kept < 1 else int(kept)])
    with pytest.raises(DataError, match=r"index\.arrow has \d+ bytes, its manifest says") as raised:
        ShardSource(folder)
    assert "umt-data upgrade" in str(raised.value.hint)
    with pytest.raises(DataError, match="is damaged"):
        opened(folder, load_manifest(folder))


def test_the_index_of_another_set_is_refused(folder: Path, tmp_path: Path) -> None:
    other = write_shards(tmp_path / "other", (5, 4, 5))
    with pytest.raises(DataError, match="has 6 samples in it, 5 in the manifest"):
        opened(folder, load_manifest(other)).key(2, 0)
    shards = load_manifest(other).shards
    with pytest.raises(DataError, match="it has 3 shards, the manifest 4"):
        opened(folder, replace(load_manifest(other), shards=(*shards, shards[0])))


def test_the_first_shards_of_a_set_are_read_by_its_index(folder: Path) -> None:
    whole = load_manifest(folder)
    assert opened(folder, replace(whole, shards=whole.shards[:2])).key(1, 3) == opened(folder, whole).key(1, 3)


def test_a_file_that_is_no_index_is_refused(folder: Path) -> None:
    pyarrow.feather.write_feather(pyarrow.table({"key": ["a"]}), folder / INDEX, compression="uncompressed")
    with pytest.raises(DataError, match="another version, or no such table: it lacks its columns members, check"):
        opened(folder, load_manifest(folder))
