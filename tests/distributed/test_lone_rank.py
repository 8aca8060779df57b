"""A rank that stands still, or that fails alone: the others find out by themselves, and leave; the job can go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.jobs import write_clips
from tests.support.ranks import environment
from umt_ds.distributed.world import free_port
from umt_ds.engine.metrics_file import METRICS, read_metrics, read_records
from umt_ds.errors import EXIT_BAD_CONFIG, EXIT_DONE, EXIT_FAILED, EXIT_STOPPED

STEPS = 20


@contextmanager
def ranks(
    folder: Path, run: str, world: int, *more: str, teachers: Sequence[str] = ()
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """`umt train demo/stage1` started once a rank, as srun does it. All that a rank prints is in RUN-rank.txt.

    teachers: what each rank finds in the variable TEACHER; default: random.
    """
    command = [
        sys.executable, "-m", "umt_ds", "train", "demo/stage1", "task.teacher.weights=${env:TEACHER}",
        f"run_dir={folder / run}", f"data.sources.demo.shards={folder / 'shards'}", "data.workers=1",
        "batch.global=6", "batch.micro=2", f"schedule.steps={STEPS}", "schedule.warmup_steps=1", "cadence.log=1",
        "cadence.save=8", "cadence.evaluate=0", "report.tensorboard=false", *more,
    ]  # fmt: skip
    common = {**environment(), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    children = []
    for rank in range(world):
        with (folder / f"{run}-{rank}.txt").open("a") as out:
            env = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            env["TEACHER"] = teachers[rank] if teachers else "random"
            children.append(subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT))
    try:
        yield children
    finally:
        for child in children:
            child.kill()
            child.wait()


def wait_for_step(run: Path, step: int, job: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + 120
    while max(read_metrics(run), default=0) < step:
        assert all(child.poll() is None for child in job), "the job ended too early"
        assert time.monotonic() < deadline, "the job makes no progress"
        time.sleep(0.05)


def test_when_a_rank_is_stopped_the_others_leave_with_75_and_their_stacks_and_the_run_goes_on(tmp_path: Path) -> None:
    """Three ranks, so that one that waits may also lose another one that waits."""
    write_clips(tmp_path / "shards")
    run = tmp_path / "run"
    with ranks(tmp_path, "run", 3, "cadence.watchdog=5") as job:
        wait_for_step(run, 10, job)
        os.kill(job[2].pid, signal.SIGSTOP)
        assert [rank.wait(timeout=60) for rank in job[:2]] == [EXIT_STOPPED, EXIT_STOPPED]
    told = "".join((tmp_path / f"run-{rank}.txt").read_text() for rank in range(2))
    assert f"of 3 on {os.uname().nodename} made no progress for 5 s after step " in told
    assert "in train_step" in told or "in agreed" in told, "where it waits"
    assert any("in _watch" in path.read_text() for path in (run / "stacks").iterdir()), "all threads"

    with ranks(tmp_path, "run", 3, "cadence.watchdog=5") as job:
        assert [rank.wait(timeout=120) for rank in job] == [EXIT_DONE] * 3
    assert "the watchdog ended the last job (0 of 3 since step 8)" in (run / "log.txt").read_text()
    with ranks(tmp_path, "unbroken", 1) as job:
        assert job[0].wait(timeout=120) == EXIT_DONE
    same = ("draws", "digest", "digest_total", "mask_digest_total", "lr")
    resumed, unbroken = read_metrics(run), read_metrics(tmp_path / "unbroken")
    assert [[resumed[s][k] for k in same] for s in range(1, STEPS + 1)] == [
        [unbroken[s][k] for k in same] for s in range(1, STEPS + 1)
    ]
    twice = [[r["loss"] for r in read_records(run / METRICS) if r["step"] == step] for step in (9, 10)]
    assert all(len(losses) == 2 and losses[0] == losses[1] for losses in twice), "steps that ran twice: bit for bit"


def test_when_one_node_lacks_a_file_all_ranks_leave_and_the_rank_that_lacks_it_says_so(tmp_path: Path) -> None:
    """The others wait for it in the broadcast of where to resume: with NCCL they would wait for the watchdog."""
    write_clips(tmp_path / "shards")
    missing = tmp_path / "on-other-nodes.safetensors"
    with ranks(tmp_path, "run", 2, "batch.micro=3", teachers=["random", str(missing)]) as job:
        assert job[1].wait(timeout=120) == EXIT_FAILED
        assert job[0].wait(timeout=10) == EXIT_FAILED
    told = [(tmp_path / f"run-{rank}.txt").read_text() for rank in range(2)]
    assert f"error: no weight file {missing}" in told[1]
    assert f"rank 1 of 2 ({os.uname().nodename}) ended: no weight file {missing}" in told[0]
    assert "Traceback" not in told[0] + told[1]
    assert f"ended: no weight file {missing}" in (tmp_path / "run" / "log.txt").read_text()


def test_when_one_rank_cannot_read_its_configuration_the_others_do_not_wait_for_it(tmp_path: Path) -> None:
    with ranks(tmp_path, "run", 2, teachers=["random", " "]) as job:
        assert job[1].wait(timeout=120) == EXIT_BAD_CONFIG
        assert job[0].wait(timeout=30) == EXIT_BAD_CONFIG
    told = [(tmp_path / f"run-{rank}.txt").read_text() for rank in range(2)]
    assert all("TEACHER" in said and "Traceback" not in said for said in told)
