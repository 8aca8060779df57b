"""One rank's end is everybody's, within seconds and without a collective; the cause is said once. Bare gloo, no
DeepSpeed; a real job in which one rank fails is in test_lone_rank.py."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.support.ranks import call, run_ranks
from umt_ds.distributed import alarm
from umt_ds.distributed.alarm import Alarm, ending_together
from umt_ds.distributed.job import start_job
from umt_ds.distributed.world import World
from umt_ds.errors import CheckpointError, ConfigError, DataError
from umt_ds.jobs.train import refuse_mixed_experiments

WORLD = 3
NAMES = (
    "one_fails_while_the_others_wait", "all_fail_alike", "all_agree", "each_fails_in_its_own_way", "a_bug",
    "a_broken_connection", "another_seed", "nobody_fails",
)  # fmt: skip
Told = dict[str, Any]


def _end_of(work: Callable[[int], None]) -> Told:
    """What became of this rank: how it ended, what it said, how it was ended if it did not end by itself."""
    left: list[int] = []
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("umt_ds").addHandler(handler)
    ended: Any = None
    with start_job() as job, pytest.MonkeyPatch.context() as patch:
        patch.setattr(alarm, "_LEAVE_S", 0.3)
        began = time.monotonic()
        try:
            with ending_together(job.world, leave=left.append):
                work(job.world.rank)
                deadline = time.monotonic() + 20
                while not left and work is not nobody_fails and time.monotonic() < deadline:
                    time.sleep(0.05)  # as in a collective that nobody joins
        except SystemExit as error:
            ended = error.code
        except KeyError as error:
            ended = repr(error)
        logging.getLogger("umt_ds").removeHandler(handler)
        return {"ended": ended, "left": left, "said": said, "soon": time.monotonic() - began < 10}


def one_fails_while_the_others_wait(rank: int) -> None:
    if rank == 2:
        raise CheckpointError("step-8: file weight-1 is missing", hint="mount it on this node too")


def all_fail_alike(rank: int) -> None:
    time.sleep(0.1 * rank)
    raise ConfigError("batch.micro=3 does not divide")


def all_agree(rank: int) -> None:
    raise CheckpointError(f"not written ({'disk full' if rank else 'another rank failed'})").by_all_ranks()


def each_fails_in_its_own_way(rank: int) -> None:
    raise DataError(f"shard {rank} is gone")


def a_bug(rank: int) -> None:
    if rank == 0:
        raise KeyError("mask")


def a_broken_connection(rank: int) -> None:
    """Rank 1 has failed, and gloo tells rank 0 before the alarm does."""
    if rank == 1:
        raise DataError("shard 1 is gone")
    if rank == 0:
        raise RuntimeError("[/x/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")


def another_seed(rank: int) -> None:
    """Of one rank, whose shell set another variable."""
    numbers = {"seed": 7 if rank == 1 else 0, "batch.global": 6}
    refuse_mixed_experiments(numbers, World(rank, WORLD, rank, "", 1, "env"))


def nobody_fails(rank: int) -> None:
    pass


def end_of(name: str) -> Told:
    """One of the above, by name."""
    return _end_of(globals()[name])


@pytest.fixture(scope="module")
def ends() -> dict[str, list[Told]]:
    """By case, of each rank; one launch for all."""
    told = run_ranks(WORLD, [call("tests.distributed.test_alarm:end_of", name=name) for name in NAMES])
    return {name: [told[rank][number] for rank in range(WORLD)] for number, name in enumerate(NAMES)}


def test_when_one_rank_fails_the_others_are_ended_with_its_code_and_the_first_says_why(
    ends: dict[str, list[Told]],
) -> None:
    first, second, failed = ends["one_fails_while_the_others_wait"]
    assert [first["left"], second["left"], failed["ended"]] == [[1], [1], 1]
    assert all(rank["soon"] for rank in (first, second, failed))
    error = "step-8: file weight-1 is missing\n  hint: mount it on this node too"
    assert failed["said"] == [f"error: {error}"]
    assert first["said"] == [f"rank 2 of 3 ({os.uname().nodename}) ended: {error}"]
    assert second["said"] == []


@pytest.mark.parametrize(("case", "code"), [("all_fail_alike", 2), ("all_agree", 1)])
def test_what_all_ranks_meet_is_said_by_the_first(ends: dict[str, list[Told]], case: str, code: int) -> None:
    assert [rank["ended"] for rank in ends[case]] == [code] * WORLD
    assert [len(rank["said"]) for rank in ends[case]] == [1, 0, 0]


def test_what_ranks_meet_by_themselves_is_said_by_each(ends: dict[str, list[Told]]) -> None:
    for rank, told in enumerate(ends["each_fails_in_its_own_way"]):
        assert told["ended"] == 1
        assert f"error: shard {rank} is gone" in told["said"]


def test_a_bug_of_one_rank_keeps_its_traceback_and_ends_the_others(ends: dict[str, list[Told]]) -> None:
    first, *others = ends["a_bug"]
    assert first["ended"] == "KeyError('mask')"
    assert [rank["left"] for rank in others] == [[1], [1]]


def test_a_connection_that_breaks_is_no_error_of_its_own_where_another_rank_has_failed(
    ends: dict[str, list[Told]],
) -> None:
    first, failed, third = ends["a_broken_connection"]
    assert (first["ended"], failed["ended"], third["left"]) == (1, 1, [1])
    assert first["said"] == [f"rank 1 of 3 ({os.uname().nodename}) ended: shard 1 is gone"]


def test_ranks_of_two_experiments_are_refused(ends: dict[str, list[Told]]) -> None:
    first, odd, third = ends["another_seed"]
    assert (first["left"], odd["ended"], third["left"]) == ([2], 2, [2])
    assert "rank 1 was started for another experiment than rank 0: seed: 0 there, 7 here" in odd["said"][0]


def test_a_clean_end_disturbs_nobody(ends: dict[str, list[Told]]) -> None:
    for told in ends["nobody_fails"]:
        assert told == {"ended": None, "left": [], "said": [], "soon": True}


class GoneStore:
    """That of a first rank that was killed, as torch 2.14 tells of it."""

    asked = 0

    def check(self, keys: list[str]) -> bool:
        self.asked += 1
        raise torch.distributed.DistNetworkError(
            "Failed to recv, got 0 bytes\nframe #0: c10d::TCPStore::check\nframe #1"
        )

    def set(self, key: str, value: str) -> None:
        self.check([key])


def test_a_first_rank_that_was_killed_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The main thread waits in a collective of NCCL, which does not tell it."""
    store, left = GoneStore(), threading.Event()
    monkeypatch.setattr(alarm, "_own_client", lambda: store)
    monkeypatch.setattr(alarm, "_STORE_GONE_S", 0.05)
    monkeypatch.setattr(logging.getLogger("umt_ds"), "propagate", True)
    bell = Alarm(World(1, 2, 1, "", 1, "env"), leave=lambda code: left.set())
    assert left.wait(timeout=10)
    assert store.asked == 1, "each question would print a stack of C++"
    said = {id(record): record.getMessage() for record in caplog.records}  # however often a handler has one record
    assert [*said.values()] == [
        f"error: rank 0 is gone, without a word: Failed to recv, got 0 bytes\n  hint: {alarm._LOST}"
    ]
    bell.ring("nobody hears it", 1)
