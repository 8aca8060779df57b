"""`umt embed` given again: after a kill, over damaged parts, for other clips."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.support.indexes import call, error_of
from tests.support.shards import write_shards
from umt_ds.cli import embed, search
from umt_ds.errors import MachineError
from umt_ds.search import embed as embed_job
from umt_ds.search import part_files, sources
from umt_ds.search.index_files import read_index
from umt_ds.search.model import SearchModel
from umt_ds.search.part_files import PartFiles

torch.set_num_threads(1)


def test_the_same_command_goes_on_and_another_one_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended in the second of its parts, of two batches each."""
    monkeypatch.setattr(sources, "_CLIPS_OF_A_PART", 4)
    words = (folder / "run", folder / "shards", "--batch", "2", "--dtype", "float32")
    call(embed.command, *words, "-o", tmp_path / "whole")
    calls: list[int] = []
    real = SearchModel.embed_clips

    def counted(model: SearchModel, pixels: torch.Tensor) -> torch.Tensor:
        calls.append(len(pixels))
        if len(calls) == 4:
            raise MachineError("the machine is needed for something else")
        return real(model, pixels)

    monkeypatch.setattr(SearchModel, "embed_clips", counted)
    assert "needed for something else" in error_of(embed.command, *words, "-o", tmp_path / "ended")
    assert "is not finished" in error_of(search.command, tmp_path / "ended", "a")
    told = error_of(embed.command, folder / "run", folder / "shards", "--batch", "3", "-o", tmp_path / "ended")
    assert "was begun with other clips, weights or settings" in told
    calls.clear()
    calls += [0] * 10
    call(embed.command, *words, "-o", tmp_path / "ended")
    assert len(calls) - 10 == 6, "the first of four parts is kept: 15 clips are 8 batches of 2"
    ended, whole = read_index(tmp_path / "ended"), read_index(tmp_path / "whole")
    assert np.array_equal(ended.vectors, whole.vectors)
    assert not (tmp_path / "ended" / "parts").exists()
    assert "is finished" in call(embed.command, *words, "-o", tmp_path / "ended").stdout
    told = error_of(embed.command, *words[:-2], "-o", tmp_path / "ended")
    assert "dtype was 'float32', and is 'float16'" in told


def test_a_damaged_part_is_made_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_CLIPS_OF_A_PART", 4)
    words = (folder / "run", folder / "shards", "--batch", "2", "--captions")
    call(embed.command, *words, "-o", tmp_path / "whole")
    with monkeypatch.context() as ended:
        ended.setattr(PartFiles, "join", _ended)
        call(embed.command, *words, "-o", tmp_path / "index")
    parts = tmp_path / "index" / "parts"
    clips = parts / "clips-00001.parquet"
    clips.write_bytes(clips.read_bytes()[:200])
    (parts / "captions-00002.parquet").unlink()
    (parts / "left_out-00003.json").write_text("[")
    told = call(embed.command, *words, "-o", tmp_path / "index").stderr
    assert [f"part {n} of" in told for n in range(4)] == [False, True, True, True]
    for kind in ("clips", "captions"):
        again, whole = (read_index(tmp_path / name, kind) for name in ("index", "whole"))
        assert np.array_equal(again.vectors, whole.vectors)
        assert again.rows(range(15)) == whole.rows(range(15))


def test_a_part_that_is_damaged_while_it_is_put_together_is_one_error_and_then_made_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (folder / "run", folder / "shards", "-o", tmp_path / "index")
    real = PartFiles.join

    def damaged(files: PartFiles, *asked: Any) -> list[Path]:
        (tmp_path / "index" / "parts" / "clips-00000.parquet").write_bytes(b"PAR1")
        return real(files, *asked)

    monkeypatch.setattr(embed_job, "count_rows", lambda _: 15)
    with monkeypatch.context() as ended:
        ended.setattr(PartFiles, "join", damaged)
        told = error_of(embed.command, *words)
    assert "clips-00000.parquet is damaged" in told
    call(embed.command, *words)
    assert len(read_index(tmp_path / "index")) == 15


def test_what_was_left_out_outlives_a_kill_while_parts_are_put_together(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once before the clips are there, and once behind them."""
    words = (folder / "run", folder / "videos", "-o", tmp_path / "index")
    for where, name in ((PartFiles, "_join"), (part_files, "shutil")):
        with monkeypatch.context() as ended:
            ended.setattr(where, name, None)  # what calls it fails
            assert CliRunner().invoke(embed.command, [str(word) for word in words]).exit_code
        assert (tmp_path / "index" / "parts").is_dir()
    assert "is finished" in call(embed.command, *words).stdout
    assert "bad.mp4" in (tmp_path / "index" / "left_out.csv").read_text()
    assert not (tmp_path / "index" / "parts").exists()


def _ended(*_: object) -> list[Path]:
    return []


def test_a_set_that_has_changed_is_named_with_what_differs(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / ("long" * 40) / "set"
    write_shards(place, (6,))
    words = (folder / "run", place, "-o", tmp_path / "index")
    call(embed.command, *words)
    shutil.rmtree(place)
    write_shards(place, (8,))
    told = error_of(embed.command, *words)
    assert f"items of {place} was 6, and is 8" in told
