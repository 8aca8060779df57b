"""The index of a shard, whatever bytes it holds: every row of it can be read and lies in the tar, or it is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.shards import write_shards
from umt_ds.data.shards.records import ShardIndex, index_path, load_index
from umt_ds.errors import DataError

TABLES = ("keys", "starts", "suffixes", "offsets", "sizes", "crcs")
NUMBERS = st.sampled_from([0, 1, 2, -1, 1 << 62, (1 << 63) - 1, -(1 << 63), 512, 1 << 32])


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_shards(tmp_path_factory.mktemp("set"), [3])
    (folder / "good.npz").write_bytes(index_path(folder / "tiny-000000.tar").read_bytes())
    return folder / "tiny-000000.tar"


def good(tar: Path) -> dict[str, Any]:
    with np.load(tar.with_name("good.npz")) as file:
        return {name: file[name] for name in file.files}


def saved(tables: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **tables)
    return file.getvalue()


def read(tar: Path, data: bytes) -> ShardIndex | None:
    """None: it is refused, in words that a terminal takes."""
    index_path(tar).write_bytes(data)
    try:
        index = load_index(tar)
    except DataError as error:
        str(error).encode()
        return None
    end, size = 0, tar.stat().st_size
    for row in range(len(index)):
        assert isinstance(index.key(row), str)
        members = index.members(row)
        assert members
        end += len(members)
        for member in members:
            assert 0 <= member.offset <= member.offset + member.size <= size
            assert 0 <= member.crc < 1 << 32
            assert isinstance(member.suffix, str)
    assert end == len(index.suffixes)
    return index


@given(data=st.data())
def test_other_bytes(tar: Path, data: st.DataObject) -> None:
    content = bytearray(tar.with_name("good.npz").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content)) | st.just(len(content))) :]
    read(tar, bytes(content))


@given(
    st.fixed_dictionaries({
        name: st.lists(st.integers(-2, 5) | st.floats() | st.text(max_size=3), max_size=3) | st.integers(-5, 5)
        for name in ("tar_size", *TABLES)
    })
)  # fmt: skip
def test_other_tables(tar: Path, tables: dict[str, Any]) -> None:
    assert read(tar, saved({name: np.array(value) for name, value in tables.items()})) is None


@given(name=st.sampled_from(TABLES[1:2] + TABLES[3:5]), place=st.integers(0, 3), value=NUMBERS)
def test_one_other_number(tar: Path, name: str, place: int, value: int) -> None:
    tables = good(tar)
    tables[name][place] = value
    read(tar, saved(tables))


@given(
    name=st.sampled_from(TABLES),
    change=st.sampled_from(["float64", "int32", "uint64", "S3", "U3", "bool", "shorter", "square", "none"]),
)
def test_a_table_of_another_type_or_shape_is_refused(tar: Path, name: str, change: str) -> None:
    tables = good(tar)
    match change:
        case "shorter":
            tables[name] = tables[name][:-1]
        case "square":
            tables[name] = tables[name][None]
        case "none":
            del tables[name]
        case _:
            tables[name] = np.zeros(len(tables[name]), change)
    assert read(tar, saved(tables)) is None or change == "S3"


@given(key=st.binary(max_size=6), suffix=st.binary(max_size=6))
def test_names_that_are_no_text_are_refused(tar: Path, key: bytes, suffix: bytes) -> None:
    tables = good(tar)
    tables["keys"] = np.array([b"a", key, b"c"])
    tables["suffixes"][1] = suffix
    index = read(tar, saved(tables))
    try:
        texts = key.rstrip(b"\0").decode(), suffix.rstrip(b"\0")[: tables["suffixes"].itemsize].decode()
    except UnicodeDecodeError:
        assert index is None
        return
    assert index is not None
    assert (index.key(1), index.members(0)[1].suffix) == texts


def test_the_index_as_it_was_written_is_read(tar: Path) -> None:
    index = read(tar, tar.with_name("good.npz").read_bytes())
    assert index is not None
    assert [index.key(row) for row in range(3)] == ["clip-0000", "clip-0001", "clip-0002"]
