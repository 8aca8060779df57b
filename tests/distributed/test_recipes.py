"""Every shipped recipe trains: some of them in each `make test`, all of them in `make test-slow`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.support.ranks import call, run_ranks
from tests.support.recipes import in_order, smaller, variables, write_world
from umt_ds.config.load import load_run, run_names
from umt_ds.config.schema import Stage2Config
from umt_ds.engine.report import read_metrics
from umt_ds.errors import EXIT_DONE, EXIT_STOPPED

SOME = ("stage1/b16_k710", "stage2/ablations/one_stage", "stage2/ablations/align_visual_text")


def train(folder: Path, *names: str) -> dict[str, dict[int, dict[str, Any]]]:
    """All in one process; the records of each run's steps by recipe."""
    write_world(folder)
    calls = [call("tests.distributed.recipe_calls:train_recipe", name=name) for name in names]
    (results,) = run_ranks(1, [call("tests.distributed.recipe_calls:enter", folder=str(folder)), *calls])
    codes = {name: result["code"] for name, result in zip(names, results[1:], strict=True)}
    assert {name: code for name, code in codes.items() if code not in (EXIT_DONE, EXIT_STOPPED)} == {}
    for name in names:  # what it ran with, all settings written out, is a run itself
        assert load_run(str(folder / "runs" / name / "config.yaml")).task == load_run(name, smaller(name)).task
    return {name: read_metrics(folder / "runs" / name) for name in names}


def parts_of(name: str) -> set[str]:
    """The losses that a recipe must have shown, by their names in the log."""
    task = load_run(name).task
    if not isinstance(task, Stage2Config):
        return {"uta" if task.kind == "stage1" else "contrastive"}
    parts = {part for part, weight in task.loss_weights if weight}
    parts |= {"align_visual"} if task.align_projections != "none" else set()
    parts |= {"align_text"} if task.align_projections == "visual_text" else set()
    return {f"{medium}_{part}" for medium in ("image", "video") for part in parts}


def assert_trained(name: str, records: dict[int, dict[str, Any]]) -> None:
    """It showed what the recipe names, no sample was bad, and there is something to learn."""
    assert records[1]["draws"] == 4
    seen = set().union(*(record for record in records.values()))
    assert parts_of(name) <= seen, name
    for record in records.values():
        assert math.isfinite(record["loss"]), name
        assert record["grad_norm"] > 0, name
        assert record["bad_samples"] == 0, name


@pytest.fixture(autouse=True)
def of_the_recipes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable, place in variables(tmp_path).items():
        monkeypatch.setenv(variable, place)


def test_some_recipes_train_from_real_shards(tmp_path: Path) -> None:
    for name, records in train(tmp_path, *SOME).items():
        assert_trained(name, records)


@pytest.mark.slow
def test_every_shipped_recipe_trains_from_real_shards(tmp_path: Path) -> None:
    names = in_order()
    assert sorted(names) == sorted(run_names())
    for name, records in train(tmp_path, *names).items():
        assert_trained(name, records)
