"""One run on 2 → 1 → 3 → 2 ranks at ZeRO 1 → 2 → 3 → 1 is the run that one rank does without a break.

`batch.micro` stays the same: the teacher's attention decides the mask, and a batch of another size rounds otherwise,
which can exchange two tokens of equal attention. Ranks, accumulation, loader workers and ZeRO stage are free.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.jobs import write_clips
from tests.support.ranks import Call, call, run_ranks
from umt_ds.engine.checkpoint_files import read_tensors
from umt_ds.engine.manifest import STATE_KINDS, StateKind, read_checkpoint_manifest, resolve_checkpoint
from umt_ds.engine.metrics_file import read_metrics
from umt_ds.report.compare_runs import compare_runs

STEPS = 10
CHAIN = (  # ranks, ZeRO stage, loader workers, stop after step; 12 = 2 × ranks × accumulation of 3, 6, 2, 3
    (2, 1, 1, 3),
    (1, 2, 2, 5),
    (3, 3, 0, 8),
    (2, 1, 2, STEPS),
)


def train(folder: Path, run: str, *, stage: int, workers: int, stop_at: int = STEPS) -> Call:
    overrides = [
        f"run_dir={folder / run}", f"data.sources.demo.shards={folder / 'shards'}", "task.teacher.weights=random",
        "task.student.drop_path=0.2", "batch.global=12", "batch.micro=2", "optim.clip_grad=0.5", "optim.ema_decay=0.7",
        f"schedule.steps={STEPS}", "schedule.warmup_steps=2", "cadence.log=1", "cadence.save=100",
        "cadence.evaluate=0", "report.tensorboard=false", f"data.workers={workers}", f"stop_at={stop_at}",
        f"engine.deepspeed_set={{zero_optimization.stage: {stage}}}",
    ]  # fmt: skip
    return call("tests.distributed.calls:train", name="demo/stage1", overrides=overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run `chain` and the run `unbroken`, which share the launch of one rank."""
    folder = tmp_path_factory.mktemp("elastic")
    write_clips(folder / "shards", (9, 9, 9))
    for ranks, stage, workers, stop_at in CHAIN:
        calls = [train(folder, "chain", stage=stage, workers=workers, stop_at=stop_at)]
        if ranks == 1:
            calls.append(train(folder, "unbroken", stage=0, workers=1))
        done: list[list[Any]] = run_ranks(ranks, calls)
        assert all(results[0] == {"code": 0 if stop_at == STEPS else 75} for results in done)
    return folder


def test_every_step_shows_the_same_clips_under_the_same_masks_and_the_losses_are_equal_to_rounding(
    folder: Path,
) -> None:
    comparison = compare_runs(folder / "unbroken", folder / "chain", rtol=1e-5)
    assert (comparison.common_steps, comparison.different) == (STEPS, 0), comparison.text()


def test_each_link_of_the_chain_went_on_where_the_one_before_stopped(folder: Path) -> None:
    attempts = [record["attempt"] for _, record in sorted(read_metrics(folder / "chain").items())]
    assert attempts == [1, 1, 1, 2, 2, 3, 3, 3, 4, 4]
    links = [read_checkpoint_manifest(path) for path in sorted((folder / "chain" / "checkpoints").glob("step-*"))]
    # cadence.keep is 3, so the first checkpoint is gone
    assert [(m.step, m.world, m.zero_stage) for m in links] == [(5, 1, 2), (8, 3, 3), (10, 2, 1)]
    assert links[-1].progress == read_checkpoint_manifest(resolve_checkpoint(folder / "unbroken")).progress


@pytest.mark.parametrize("kind", STATE_KINDS)
def test_weights_moments_and_average_end_where_the_unbroken_run_ends(kind: StateKind, folder: Path) -> None:
    unbroken, chain = (dict(read_tensors(resolve_checkpoint(folder / run), kind)) for run in ("unbroken", "chain"))
    assert unbroken.keys() == chain.keys()
    for name, expected in unbroken.items():
        largest = float(expected.abs().max())
        torch.testing.assert_close(
            chain[name], expected, rtol=0, atol=1e-4 * largest, msg=lambda m, n=name: f"{n}: {m}"
        )
