"""An index as a file: what is written is read, as parquet and as npz, and by others; what is none is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from pyarrow import parquet

from tests.support.indexes import call, error_of
from umt_ds.cli.search import command
from umt_ds.errors import DataError
from umt_ds.search.index_files import Facts, FileFormat, read_facts, read_index, table_of, write_npz, writing_parquet

FACTS = Facts(
    run="runs/a", config={"name": "a"}, weights="/w", averaged=False, fingerprint="f", precision="fp32", vocabulary="v",
    max_tokens=8, frames=2, frames_rule="middle", side=16, resize="whole", antialias=True, window_s=None,
    stride_s=None, width=4, dtype="float16", batch=16, caption_field=None, sources=[{"set": "/s"}],
)  # fmt: skip
VECTORS = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float16)
COLUMNS: dict[str, list[Any]] = {
    "key": [f"k{n}" for n in range(6)],
    "set": ["/s"] * 5 + [None],
    "item": [*range(5), None],
    "file": ["/s/0.tar"] * 5 + ["/v/ä.mp4"],
    "start_s": [0.5] * 5 + [None],
    "end_s": [1.5] * 5 + [None],
}


def write(path: Path, facts: Facts = FACTS, vectors: np.ndarray[Any, Any] = VECTORS) -> Path:
    table = table_of("clips", COLUMNS, vectors)
    if path.suffix == ".npz":
        write_npz(path, "clips", table, facts)
        return path
    with writing_parquet(path, "clips", facts) as writer:
        writer.write_table(table.slice(0, 4))
        writer.write_table(table.slice(4))
    return path


@pytest.mark.parametrize("ending", ["parquet", "npz"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_written_is_read(tmp_path: Path, ending: FileFormat, dtype: str) -> None:
    facts, vectors = replace(FACTS, dtype=dtype), VECTORS.astype(dtype)
    path = write(tmp_path / f"clips.{ending}", facts, vectors)
    index = read_index(tmp_path)
    assert index.path == path
    assert index.facts == read_facts(path) == facts
    assert index.vectors.dtype == dtype
    assert np.array_equal(index.vectors, vectors)
    assert index.rows([5, 1, 1]) == [{name: values[n] for name, values in COLUMNS.items()} for n in (5, 1, 1)]


def test_other_readers_of_parquet_find_keys_and_lists_of_numbers(tmp_path: Path) -> None:
    table = parquet.read_table(write(tmp_path / "clips.parquet"))
    assert table["key"].to_pylist() == COLUMNS["key"]
    assert table.schema.field("embedding").type == pa.list_(pa.field("item", pa.float16(), nullable=False), 4)
    assert np.array_equal(np.stack(table["embedding"].to_numpy()), VECTORS)


def test_vectors_are_copied_from_where_they_lie_and_are_those_that_pyarrow_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "clips.parquet")
    monkeypatch.setattr("umt_ds.search.index_files._read_groups", lambda *_: pytest.fail("lists were made"))
    assert np.array_equal(read_index(path).vectors, VECTORS)


@pytest.mark.parametrize("how", [{"compression": "snappy"}, {"use_dictionary": True}, {"data_page_size": 8}])
def test_vectors_that_others_have_written_in_pages_of_their_own_are_read_too(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    many = np.random.default_rng(1).standard_normal((5000, 4)).astype(np.float16)
    columns = {name: (values * 1000)[:5000] for name, values in COLUMNS.items()}
    about = {"umt_ds": FACTS.to_json()}
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    table = table_of("clips", columns, many).replace_schema_metadata(about)
    parquet.write_table(table, tmp_path / "clips.parquet", **(plain | how))
    assert np.array_equal(read_index(tmp_path).vectors, many)


def test_pandas_reads_keys_and_vectors(tmp_path: Path) -> None:
    frame = pytest.importorskip("pandas").read_parquet(write(tmp_path / "clips.parquet"))
    assert frame["key"].tolist() == COLUMNS["key"]
    assert np.array_equal(np.stack(frame["embedding"]), VECTORS)


def test_polars_reads_keys_and_vectors(tmp_path: Path) -> None:
    facts, vectors = replace(FACTS, dtype="float32"), VECTORS.astype("float32")
    frame = pytest.importorskip("polars").read_parquet(write(tmp_path / "clips.parquet", facts, vectors))
    assert frame["key"].to_list() == COLUMNS["key"]
    assert np.array_equal(np.array(frame["embedding"].to_list(), np.float32), vectors)


def test_duckdb_reads_keys_and_vectors(tmp_path: Path) -> None:
    facts, vectors = replace(FACTS, dtype="float32"), VECTORS.astype("float32")
    path = write(tmp_path / "clips.parquet", facts, vectors)
    rows = pytest.importorskip("duckdb").sql(f"select key, embedding from '{path}'").fetchall()
    assert [key for key, _ in rows] == COLUMNS["key"]
    assert np.array_equal(np.array([vector for _, vector in rows], np.float32), vectors)


def test_an_npz_file_is_mapped_and_holds_no_pickle(tmp_path: Path) -> None:
    path = write(tmp_path / "clips.npz")
    assert isinstance(read_index(path).vectors, np.memmap)
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["key"].tolist() == COLUMNS["key"]
        assert arrays["embedding"].shape == (6, 4)


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        read_index(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"is no index: it has no clips\.parquet"):
        read_index(tmp_path)
    (tmp_path / "parts").mkdir()
    with pytest.raises(DataError, match="is not finished"):
        read_index(tmp_path)
    for ending, content in (("parquet", b"PAR1 no PAR1"), ("npz", b"PK no zip")):
        (tmp_path / f"a.{ending}").write_bytes(content)
        with pytest.raises(DataError, match="is no index of `umt embed`, or is damaged"):
            read_index(tmp_path / f"a.{ending}")
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="is no index of `umt embed`"):
        read_index(tmp_path / "other.parquet")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    for ending in ("parquet", "npz"):
        path = write(tmp_path / f"clips.{ending}")
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(DataError, match="damaged"):
            read_index(path)


def test_an_index_without_captions_says_how_to_make_one_with(tmp_path: Path) -> None:
    write(tmp_path / "clips.parquet")
    with pytest.raises(DataError, match="has no captions") as raised:
        read_index(tmp_path, "captions")
    assert "--captions" in str(raised.value.hint)


@pytest.mark.parametrize("said", [{"config": "x"}, {"config": [1]}, {"weights": 3}, {"dtype": "banana"}, {"format": 2}])
def test_facts_that_nobody_wrote_are_refused(tmp_path: Path, said: dict[str, Any]) -> None:
    path = write(tmp_path / "clips.parquet")
    table = parquet.read_table(path)
    facts = json.dumps(json.loads(FACTS.to_json()) | said)
    parquet.write_table(table.replace_schema_metadata({"umt_ds": facts}), path)
    with pytest.raises(DataError, match="another version"):
        read_facts(path)


def test_a_table_of_others_is_no_index(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"key": ["a"], "embedding": [[1.0]]}), tmp_path / "clips.parquet")
    with pytest.raises(DataError, match="does not say under umt_ds what made it"):
        read_facts(tmp_path / "clips.parquet")


def test_faiss_finds_the_rows_of_the_index(tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    write(tmp_path / "clips.parquet")
    result = call(command, tmp_path, "--export-faiss", tmp_path / "clips.faiss")
    assert "6 vectors" in result.output
    found = faiss.read_index(str(tmp_path / "clips.faiss"))
    similarity, rows = found.search(VECTORS.astype(np.float32), 2)
    product = VECTORS.astype(np.float32) @ VECTORS.astype(np.float32).T
    assert np.array_equal(rows, np.argsort(-product, axis=1)[:, :2])
    assert np.allclose(similarity, -np.sort(-product, axis=1)[:, :2])


def test_an_export_searches_nothing_and_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "clips.parquet")
    said = CliRunner().invoke(command, [str(tmp_path), "a man", "--export-faiss", str(tmp_path / "f")])
    assert said.exit_code == 2
    assert "searches nothing" in said.output
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert "pip install faiss-cpu" in error_of(command, tmp_path, "--export-faiss", tmp_path / "f")
    assert not (tmp_path / "f").exists()
