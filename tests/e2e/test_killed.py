"""A job that is killed without warning goes on from its last checkpoint as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.ranks import environment
from tests.support.shards import picture, record, write_shards
from umt_ds.engine.report import METRICS, read_metrics, read_records

STEPS = 8
pytestmark = pytest.mark.e2e


def members(number: int) -> dict[str, bytes]:
    noise = np.random.default_rng(number).integers(0, 256, (10, 48, 64, 3), dtype=np.uint8)
    return {**record(number), **{f"{i:03d}.png": picture(image) for i, image in enumerate(noise)}}


def start(folder: Path, run: str, *more: str) -> subprocess.Popen[bytes]:
    """`umt train demo/stage1 --ranks 2` in a process group of its own, so that all of it can be killed."""
    command = [
        sys.executable, "-m", "umt_ds", "train", "demo/stage1", "--ranks", "2", f"run_dir={folder / run}",
        f"data.sources.demo.shards={folder / 'shards'}", "task.teacher.weights=random", "data.workers=1",
        "batch.global=4", "batch.micro=2", f"schedule.steps={STEPS}", "schedule.warmup_steps=1", "cadence.log=1",
        "cadence.save=2", "report.tensorboard=false", *more,
    ]  # fmt: skip
    return subprocess.Popen(command, env=environment(), start_new_session=True)


def wait_for_step(run: Path, step: int, job: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while max(read_metrics(run), default=0) < step:
        assert job.poll() is None, "the job ended before it was killed"
        assert time.monotonic() < deadline, "the job makes no progress"
        time.sleep(0.05)


def test_sigkill_at_any_step_then_the_same_command_gives_the_unbroken_run(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", (5, 6), members=members)
    assert start(tmp_path, "unbroken").wait(timeout=240) == 0
    victim = start(tmp_path, "killed")
    killed_after = random.randint(2, STEPS - 2)
    wait_for_step(tmp_path / "killed", killed_after, victim)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    assert start(tmp_path, "killed").wait(timeout=240) == 0

    unbroken, killed = read_metrics(tmp_path / "unbroken"), read_metrics(tmp_path / "killed")
    same = ("loss", "grad_norm", "lr", "digest", "digest_total", "mask_digest_total")
    assert [[unbroken[s][k] for k in same] for s in sorted(unbroken)] == [
        [killed[s][k] for k in same] for s in sorted(killed)
    ], f"killed after step {killed_after}"
    by_step: dict[int, set[str]] = {}
    for entry in read_records(tmp_path / "killed" / METRICS):
        by_step.setdefault(entry["step"], set()).add(entry["digest"])
    assert all(len(digests) == 1 for digests in by_step.values()), "a step that ran twice showed other clips"


def test_sigusr1_to_the_launcher_stops_all_ranks_at_one_step_resumably(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", (5, 6), members=members)
    job = start(tmp_path, "run", "schedule.steps=100000")
    wait_for_step(tmp_path / "run", 1, job)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=120) == 75
    last = max(read_metrics(tmp_path / "run"))
    assert (tmp_path / "run" / "checkpoints" / "LATEST").read_text().strip() == f"step-{last:08d}"
