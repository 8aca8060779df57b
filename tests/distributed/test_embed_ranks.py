"""`umt embed` on two ranks makes the index that one makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.indexes import retriever_run
from tests.support.shards import png_frames, write_shards
from umt_ds.search.index_files import read_index


def embed(folder: Path, name: str, *more: str) -> str:
    command = [sys.executable, "-m", "umt_ds", "embed", "run", "shards", "-o", name, "--captions", *more]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=300).stdout


@pytest.mark.slow
def test_two_ranks_make_the_index_of_one(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", (800, 800, 600), members=lambda n: png_frames(n % 250, num_frames=2))
    retriever_run(tmp_path)
    embed(tmp_path, "one")
    assert "2,200 clips" in embed(tmp_path, "two", "--ranks", "2")
    for kind in ("clips", "captions"):
        one, two = read_index(tmp_path / "one", kind), read_index(tmp_path / "two", kind)
        assert len(one) == 2200
        assert np.array_equal(one.vectors, two.vectors)
        assert one.rows(range(0, 2200, 100)) == two.rows(range(0, 2200, 100))
