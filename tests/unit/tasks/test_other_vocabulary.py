"""Weights that a run trained with another vocabulary of the same size: refused, by training and by evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.tiny_runs import add_checkpoint
from tests.support.video_text_runs import SPECIAL, WORDS, video_text_run, write_clips
from umt_ds.config.run import RunConfig
from umt_ds.engine.protocol import Task
from umt_ds.errors import WeightsError
from umt_ds.jobs.eval_runs import EvalRun
from umt_ds.jobs.evaluate import load_scored
from umt_ds.tasks.initial import read_initial, start_from
from umt_ds.tasks.kinds import build_task

torch.set_num_threads(1)


def task_of(run: RunConfig) -> Task:
    return build_task(run, device=torch.device("cpu"), precision="fp32")


@pytest.fixture
def trained(tmp_path: Path) -> tuple[RunConfig, Path]:
    """A run of retrieval, and the folder of its checkpoint."""
    write_clips(tmp_path / "train", [{"caption": "a man"}] * 2)
    run = video_text_run(tmp_path, "retrieval")
    task = task_of(run)
    weights = {name: tensor.clone() for name, tensor in task.module.state_dict().items()}
    checkpoint = add_checkpoint(tmp_path / "trained", run, weights=weights, fingerprints=task.fingerprints)
    return run, checkpoint


def reorder(run: RunConfig) -> None:
    """The same words in the vocabulary of the run, two of them in each other's place."""
    vocabulary = run.task.text.vocabulary  # type: ignore[union-attr]
    vocabulary.write_text("\n".join([*SPECIAL, WORDS[1], WORDS[0], *WORDS[2:]]) + "\n")


def test_a_run_starts_from_weights_of_its_own_vocabulary(trained: tuple[RunConfig, Path]) -> None:
    run, checkpoint = trained
    assert start_from(task_of(run), read_initial(checkpoint), run.task).startswith("144 tensors loaded")
    assert load_scored(task_of(run), EvalRun("trained", run, checkpoint), judged=()).startswith("144 tensors loaded")


def test_a_run_does_not_start_from_weights_of_another_vocabulary(trained: tuple[RunConfig, Path]) -> None:
    run, checkpoint = trained
    reorder(run)
    with pytest.raises(WeightsError, match="was trained with another vocabulary") as raised:
        start_from(task_of(run), read_initial(checkpoint), run.task)
    assert str(checkpoint) in raised.value.what
    assert "task.text.vocabulary" in str(raised.value.hint)


def test_a_checkpoint_is_not_scored_with_another_vocabulary(trained: tuple[RunConfig, Path]) -> None:
    run, checkpoint = trained
    reorder(run)
    with pytest.raises(WeightsError, match="its numbers stand for other words"):
        load_scored(task_of(run), EvalRun("trained", run, checkpoint), judged=())
