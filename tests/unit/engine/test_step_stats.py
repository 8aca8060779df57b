"""What the ranks tell one another of a step: exact sums, read a step late. Bare gloo, no DeepSpeed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.support.ranks import call, run_ranks
from umt_ds.distributed.job import start_job
from umt_ds.distributed.world import World
from umt_ds.engine.speed import Lap
from umt_ds.engine.step_stats import GlobalStepStats, LocalStepStats, RankTimes, StepStatsReducer

CPU = torch.device("cpu")
ALONE = World.alone()
SAID = LocalStepStats(
    step=1, losses={"uta": torch.tensor(0.25), "loss": torch.tensor(0.5)}, grad_norm=torch.tensor(1.5),
    skipped=torch.tensor(0.0), mask_digest=torch.tensor(-1), digest=2**64 - 2, substituted=3, wants_stop=False,
    wrote_snapshot=True, lap=Lap(seconds=1.0, data_s=0.125, own_s=0.5, steps=1),
)  # fmt: skip


def test_a_step_is_heard_when_the_next_one_was_said() -> None:
    pulse = StepStatsReducer(ALONE, CPU)
    pulse.submit(SAID)
    assert pulse.collect(now=False) == []
    pulse.submit(replace(SAID, step=2))
    (first,) = pulse.collect(now=False)
    assert first == GlobalStepStats(
        step=1, losses={"loss": 0.5, "uta": 0.25}, grad_norm=1.5, skipped=False, digest=2**64 - 2,
        mask_digest=2**64 - 1, substituted=3, wants_stop=False, wrote_snapshot=True,
        times=RankTimes(data_s=(0.125,), own_s=(0.5,)),
    )  # fmt: skip


def test_before_a_save_all_is_heard_and_in_order() -> None:
    pulse = StepStatsReducer(ALONE, CPU)
    for step in (1, 2):
        pulse.submit(replace(SAID, step=step))
    assert [heard.step for heard in pulse.collect(now=True)] == [1, 2]
    assert pulse.collect(now=True) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    pulse = StepStatsReducer(ALONE, CPU)
    pulse.submit(replace(SAID, losses={"loss": torch.tensor(bad)}, grad_norm=torch.tensor(bad)))
    (heard,) = pulse.collect(now=True)
    assert not math.isfinite(heard.losses["loss"])
    assert not math.isfinite(heard.grad_norm)


def said_on_each_rank() -> dict[str, Any]:
    """Three ranks: only the second wants to stop and only the third has not written."""
    with start_job() as job:
        rank = job.world.rank
        pulse = StepStatsReducer(job.world, job.device)
        pulse.submit(
            replace(
                SAID,
                losses={"loss": torch.tensor(float(rank))},
                mask_digest=torch.tensor(2**62 + rank),
                digest=2**63 + rank,
                substituted=rank,
                wants_stop=rank == 1,
                wrote_snapshot=rank != 2,
                lap=Lap(seconds=4.0, data_s=[0.5, 2.0, 1.0][rank], own_s=[2.0, 2.5, 3.0][rank], steps=1),
            )
        )
        (heard,) = pulse.collect(now=True)
    return {**vars(heard), "times": [heard.times.data_s, heard.times.own_s]}


def test_all_ranks_hear_the_same_sums() -> None:
    told = [calls[0] for calls in run_ranks(3, [call("tests.unit.engine.test_step_stats:said_on_each_rank")])]
    assert told[0] == told[1] == told[2]
    assert told[0] == {
        "step": 1,
        "losses": {"loss": 1.0},
        "grad_norm": 1.5,
        "skipped": False,
        "digest": (3 * 2**63 + 3) % 2**64,
        "mask_digest": (3 * 2**62 + 3) % 2**64,
        "substituted": 3,
        "wants_stop": True,
        "wrote_snapshot": False,
        "times": [[0.5, 2.0, 1.0], [2.0, 2.5, 3.0]],
    }


def test_of_a_step_that_is_not_logged_nobody_says_how_long_it_waited() -> None:
    pulse = StepStatsReducer(ALONE, CPU)
    pulse.submit(replace(SAID, lap=None))
    (heard,) = pulse.collect(now=True)
    assert heard.times is None


def test_the_rank_that_the_others_wait_for_is_told_from_the_one_that_waits_for_data() -> None:
    times = RankTimes(data_s=(0.5, 2.0, 1.0), own_s=(2.0, 2.5, 4.0))
    assert (times.data_rank, times.slowest_rank, times.behind_s) == (1, 2, 1.5)
