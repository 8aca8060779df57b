"""Runs that are made longer and whose mixture changes: what was declared later is what would have been declared first.

`whole` declares ten steps at once: from step 5 on another mixture, and a decay in the last three.
`grown` is declared as six steps without a change, stops after 4, and is then given what `whole` has.
`chain` is `whole` on 1 → 2 → 1 → 3 ranks, stopped before, at and after the change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import write_clips
from tests.support.ranks import Call, call, run_ranks
from tests.support.same_run import assert_same_run, assert_same_state
from umt_ds.config.load import load_run
from umt_ds.engine.metrics_file import read_metrics
from umt_ds.engine.resume import find_resume
from umt_ds.errors import CheckpointError

pytestmark = pytest.mark.slow

STEPS = 10
WHOLE = ("schedule.steps=10", "schedule.decay_steps=3", "data.segments.5={more: 1.0, demo: 0}")
SHORT = ("schedule.steps=6", "schedule.decay_steps=2")
CHAIN = ((1, 3), (2, 5), (1, 7), (3, STEPS))  # ranks, stop after step


def settings(folder: Path, run: str, *declared: str, stop_at: int = STEPS) -> list[str]:
    return [
        f"run_dir={folder / run}", f"data.sources.demo.shards={folder / 'demo'}", "data.sources.demo.weight=2",
        f"data.sources.more.shards={folder / 'more'}", "data.sources.more.weight=1",
        "task.teacher.weights=random", "batch.global=12", "batch.micro=2", "schedule.curve=wsd",
        "schedule.warmup_steps=2", "cadence.log=1", "cadence.save=100", "cadence.evaluate=0",
        "report.tensorboard=false", "data.workers=1", f"stop_at={stop_at}", *declared,
    ]  # fmt: skip


def train(folder: Path, run: str, *declared: str, stop_at: int = STEPS, accepts: bool = False) -> Call:
    return call(
        "tests.distributed.calls:train",
        name="demo/stage1",
        overrides=settings(folder, run, *declared, stop_at=stop_at),
        allow_config_change=accepts,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annealing")
    write_clips(folder / "demo", (7, 7))
    write_clips(folder / "more", (5,))
    done: list[Any] = []
    for ranks, stop_at in CHAIN:
        calls = [train(folder, "chain", *WHOLE, stop_at=stop_at)]
        if stop_at == 3:
            calls += [train(folder, "whole", *WHOLE), train(folder, "grown", *SHORT, stop_at=4)]
        if stop_at == 7:
            calls.append(train(folder, "grown", *WHOLE, accepts=True))
        done += [result["code"] for result in run_ranks(ranks, calls)[0]]
    assert done == [75, 0, 75, 75, 75, 0, 0]
    return folder


def test_a_run_that_grew_is_the_run_that_was_declared_so(folder: Path) -> None:
    assert_same_run(folder / "whole", folder / "grown", steps=STEPS, rtol=None)
    assert_same_state(folder / "whole", folder / "grown")


def test_a_change_is_the_same_on_any_ranks_stopped_before_at_and_after_it(folder: Path) -> None:
    assert_same_run(folder / "whole", folder / "chain", steps=STEPS, rtol=1e-5)


def test_the_rate_holds_and_then_falls(folder: Path) -> None:
    rates = [record["lr"] for _, record in sorted(read_metrics(folder / "whole").items())]
    peak, low = rates[2], load_run("demo/stage1").optim.min_lr
    assert rates[1:8] == [peak] * 7
    assert rates[8:] == pytest.approx([low + (peak - low) * 2 / 3, low + (peak - low) / 3])


def test_the_log_says_where_the_mixture_changes(folder: Path) -> None:
    log = (folder / "chain" / "log.txt").read_text()
    assert log.count("mixture from step 5 on: demo 0 %, more 100 %") == len(CHAIN)
    assert log.count("the mixture changes after 5 steps (data.segments): demo 0 %, more 100 %") == 1
    grown = (folder / "grown" / "log.txt").read_text()
    assert "changed since the checkpoint: schedule.steps: 6 → 10 (the steps so far are the same)" in grown
    assert "changed since the checkpoint: data.segments.5.more: None → 1.0 (the steps so far are the same)" in grown


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        (("schedule.steps=12", "schedule.decay_steps=2", WHOLE[2]), r"schedule\.steps: 10 → 12(?! \(the steps)"),
        ((*WHOLE[:2], "data.segments.4={more: 1.0, demo: 0}"), r"data\.segments\.4\.more: None → 1\.0(?! \(the steps)"),
        ((*WHOLE, "data.segments.10={demo: 2}"), r"data\.segments\.10\.demo: None → 2\.0 \(the steps so far are the s"),
    ],
)
def test_a_change_needs_leave_and_it_is_said_whether_it_concerns_what_was_done(
    declared: tuple[str, ...], told: str, folder: Path
) -> None:
    config = load_run("demo/stage1", settings(folder, "whole", *declared))
    with pytest.raises(CheckpointError, match=told):
        find_resume(folder / "whole", config, fingerprints={}, earlier={}, classes=(), allow_config_change=False)
