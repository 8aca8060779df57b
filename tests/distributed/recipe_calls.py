"""What the rank of test_recipes.py does."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tests.support.reads import leaves_of, noting_reads
from tests.support.recipes import smaller, variables, write_models
from umt_ds.config.load import load_run
from umt_ds.engine.metrics_file import METRICS, read_metrics
from umt_ds.errors import EXIT_DONE
from umt_ds.jobs.train import run_training


def enter(folder: str) -> None:
    """Go where the recipes are to be run; all that they want is made, or was."""
    os.environ.update(variables(Path(folder)))
    os.chdir(folder)
    write_models(Path(folder))


def train_recipe(name: str) -> dict[str, Any]:
    """`umt train NAME`, a few steps of it: the exit code, or what broke, and the settings that no code looked at."""
    run = load_run(name, smaller(name))
    with noting_reads(run) as read:
        try:
            code = run_training(run)
        except (Exception, SystemExit) as error:
            return {"code": repr(error)}
    return {"code": code, "unread": sorted(set(leaves_of(run)) - read)}


def numbers_of(name: str, overrides: list[str]) -> list[list[float]]:
    """Loss and gradient norm of each step of a run, of which nothing stays."""
    with tempfile.TemporaryDirectory() as folder:
        run_training(load_run(name, [*smaller(name), *overrides, f"run_dir={folder}"]))
        return [[record["loss"], record["grad_norm"]] for record in read_metrics(Path(folder)).values()]


def fine_tune(name: str, overrides: list[str]) -> list[dict[str, Any]]:
    """Train a recipe to its end: the scores that were found."""
    run = load_run(name, overrides)
    assert run_training(run) == EXIT_DONE
    lines = (run.folder / METRICS).read_text().splitlines()
    return [record for line in lines if (record := json.loads(line)).get("kind") == "scores"]
