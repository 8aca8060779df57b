"""A shard as it is written: the tar that WebDataset's own writer makes, with the index that a scan of it finds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.clip import Sample
from data_prep.spool import kept, with_member
from data_prep.state.writer import new_shard
from umt_ds.data.shards.manifest import ShardEntry
from umt_ds.data.shards.records import index_path, load_index, sha256_of
from umt_ds.data.shards.tars import index_tar

_KEY = st.text("abcXYZ019_-%é日/", min_size=1, max_size=300).filter(
    lambda key: key.strip("/") == key and "//" not in key
)
_MEMBERS = st.dictionaries(
    st.sampled_from(["json", "000.jpg", "001.jpg", "999.jpg", "1000.jpg", "npy", "mp4"]),
    st.binary(max_size=1500),
    min_size=1,
)


def written(folder: Path, samples: list[Sample]) -> tuple[Path, ShardEntry]:
    with new_shard(folder / "x.tar", samples, scratch=folder) as new:
        assert new is not None
        made, entry = new
        for file in (made, index_path(made)):
            file.rename(folder / file.name)
    return folder / "x.tar", entry


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(_KEY, _MEMBERS, min_size=1, max_size=4))
def test_the_index_and_hashes_made_on_the_way_are_those_of_the_finished_tar(
    tmp_path_factory: pytest.TempPathFactory, contents: dict[str, dict[str, bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("set")
    tar, entry = written(folder, [Sample(key, members) for key, members in contents.items()])
    found, made = index_tar(tar), load_index(tar)
    assert all(np.array_equal(getattr(found, name), getattr(made, name)) for name in vars(found))
    assert [found.key(row) for row in range(len(found))] == list(contents)
    assert entry == ShardEntry("x.tar", len(contents), tar.stat().st_size, sha256_of(tar), sha256_of(index_path(tar)))


def test_the_tar_is_that_of_the_writer_of_webdataset(tmp_path: Path) -> None:
    import webdataset

    samples = {f"a/{'k' * 40 * n}{n}": {"json": b"{}", "000.jpg": bytes(700 * n), "1000.jpg": b"x"} for n in range(9)}
    with (
        (tmp_path / "theirs.tar").open("wb") as file,
        webdataset.TarWriter(file, encoder=False, mtime=0) as theirs,
    ):
        for key, members in samples.items():
            theirs.write({"__key__": key, **members})
    ours, _ = written(tmp_path, [Sample(key, members) for key, members in samples.items()])
    assert ours.read_bytes() == (tmp_path / "theirs.tar").read_bytes()


def test_members_on_disk_make_the_tar_that_members_in_memory_make_and_are_not_read_whole(tmp_path: Path) -> None:
    large = hashlib.sha256(b"").digest() * 100_000  # 3.2 MB
    in_memory = {"000.jpg": b"picture", "npy": large, "json": b"{}"}
    members = with_member(
        kept([("000.jpg", [b"pic", b"ture"]), ("npy", _halves(large))], tmp_path / "file"), "json", b"{}"
    )
    assert dict(members) == in_memory
    assert len(members) == 3
    (there := tmp_path / "disk").mkdir()
    (here := tmp_path / "memory").mkdir()
    assert written(there, [Sample("k", members)])[1] == written(here, [Sample("k", in_memory)])[1]


def _halves(content: bytes) -> Iterator[bytes]:
    yield content[: len(content) // 2]
    yield content[len(content) // 2 :]
