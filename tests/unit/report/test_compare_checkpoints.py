"""What `umt verify-run` says of the checkpoints of two runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.support.checkpoints import FakeEngine, folder, open_store, save
from umt_ds.engine.manifest import MANIFEST, read_checkpoint_manifest
from umt_ds.engine.protocol import Progress
from umt_ds.report.compare_checkpoints import compare_checkpoints

AVERAGED = "optim.ema_decay=0.9"


def test_equal_state_is_told_kind_by_kind(tmp_path: Path) -> None:
    for run in ("a", "b"):
        save(open_store(tmp_path / run, AVERAGED), 2, 4, averaged=True)
    assert compare_checkpoints(tmp_path / "a", tmp_path / "b") == (
        "checkpoints of step 4: weights, first moments, second moments, averaged weights equal bit for bit"
    )


def test_an_average_that_differs_is_told_though_all_else_is_equal(tmp_path: Path) -> None:
    save(open_store(tmp_path / "a", AVERAGED), 2, averaged=True)
    engine = FakeEngine(2, averaged=True)
    engine.state["ema"]["encoder.norm.weight"] += 1
    open_store(tmp_path / "b", AVERAGED).save(engine, Progress(step=2, draws=64))  # type: ignore[arg-type]
    assert compare_checkpoints(tmp_path / "a", tmp_path / "b") == (
        "checkpoints of step 2: weights, first moments, second moments equal bit for bit; averaged weights not"
    )
    save(open_store(tmp_path / "none"), 2)
    assert compare_checkpoints(tmp_path / "a", tmp_path / "none").endswith("; averaged weights not")


def test_what_cannot_be_compared_is_said_to_be_so(tmp_path: Path) -> None:
    save(open_store(tmp_path / "a"), 2)
    save(open_store(tmp_path / "b"), 3)
    assert "no step of which both have a checkpoint" in compare_checkpoints(tmp_path / "a", tmp_path / "b")
    save(open_store(tmp_path / "c"), 2)
    manifest = read_checkpoint_manifest(folder(tmp_path / "c", 2))
    (folder(tmp_path / "c", 2) / MANIFEST).write_text(replace(manifest, world=3).to_json())
    assert "1 rank(s) wrote those of A and 3 those of B" in compare_checkpoints(tmp_path / "a", tmp_path / "c")
    (folder(tmp_path / "c", 2) / MANIFEST).write_text(manifest.to_json().replace('"world": 1', '"world": 3'))
    assert "was altered" in compare_checkpoints(tmp_path / "a", tmp_path / "c")
