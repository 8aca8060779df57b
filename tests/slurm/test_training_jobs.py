"""umt-launch on a real Slurm: a 2-node Stage-1 job that is signalled, requeued or cancelled is the unbroken run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.jobs import start_job, write_clips
from tests.support.ranks import environment
from umt_ds.engine.metrics_file import read_metrics

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm")]
STEPS = 24
SAME = ("loss", "grad_norm", "lr", "digest", "digest_total", "mask_digest_total")
LENGTH = (f"schedule.steps={STEPS}", "cadence.save=100")  # so that a checkpoint comes from a stop, or at the end
# what start_job gives to `umt train`
SETTINGS = (
    "task.teacher.weights=random", "task.student.drop_path=0.2", "data.workers=1", "batch.global=4", "batch.micro=2",
    "schedule.warmup_steps=1", "cadence.log=1", "cadence.keep=9", "cadence.evaluate=0",
    "report.tensorboard=false", *LENGTH,
)  # fmt: skip


def umt_launch(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from launchers.cli import main; main()", *map(str, words)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


def submit(run: Path, shards: Path, launcher: str, *more: str) -> str:
    """The job id of a job on two nodes, one CPU rank each."""
    size = ("--nodes", "2", "--gpus-per-node", "0", "--tasks", "1", "--cpus-per-task", "1", "--launcher", launcher)
    where = (f"run_dir={run}", f"data.sources.demo.shards={shards}")
    done = umt_launch("demo/stage1", *size, *where, *SETTINGS, *more)
    assert done.returncode == 0, done.stderr
    return re.findall(r"^job (\d+): 2 node\(s\) x 1 rank\(s\)", done.stdout)[0]


def wait_until(condition: Callable[[], bool], run: Path, *, seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, umt_launch("status", run).stdout + umt_launch("logs", run).stdout
        time.sleep(0.1)


def history(run: Path) -> str:
    path = run / "launch" / "history"
    return path.read_text() if path.exists() else ""


def queue(job: str) -> str:
    return subprocess.run(["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True, check=False).stdout


def node(name: str, state: str) -> None:
    """Say that a node is DOWN, or RESUME it; it may have come back by itself, which Slurm then calls invalid."""
    command = ["scontrol", "update", f"NodeName={name}", f"State={state}", "Reason=test"]
    subprocess.run(command, check=state == "DOWN")


def ranks_of(run: Path) -> list[int]:
    """The processes that train, without their loader workers and shells."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
            parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
            of_parent = Path(f"/proc/{parent}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if words[1:4] == ["-m", "umt_ds", "train"] and str(run) in words[4] and "rank.sh" in of_parent:
            found.append(int(path.parent.name))
    return found


def scancel(job: str, *options: str) -> None:
    subprocess.run(["scancel", *options, job], check=True)


def trained(run: Path) -> list[list[float]]:
    metrics = read_metrics(run)
    return [[metrics[step][name] for name in SAME] for step in sorted(metrics)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def unbroken(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[float]]:
    """What `umt train --ranks 2` makes of it, without Slurm."""
    run = tmp_path_factory.mktemp("local") / "run"
    start_job(run, shards, *LENGTH).wait(code=0)
    assert len(trained(run)) == STEPS
    return trained(run)


@pytest.mark.parametrize("launcher", ["srun", "torchrun", "deepspeed"])
def test_a_job_signalled_with_usr1_is_requeued_and_ends_as_the_unbroken_run(
    launcher: str, shards: Path, unbroken: list[list[float]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = submit(run, shards, launcher)
    wait_until(lambda: len(read_metrics(run)) >= 2, run)
    scancel(job, "--signal=USR1", "--batch")
    wait_until(lambda: "start 2: exit" in history(run), run)
    assert re.search(r"start 1: exit 75, newest checkpoint: step-(\d+); stopped before .*: requeued\n", history(run))
    assert "start 2: exit 0, newest checkpoint: step-00000024; the schedule is done\n" in history(run)
    attempts = {record["attempt"] for record in read_metrics(run).values()}
    assert attempts == {1, 2}, "some steps in each start, and no step twice"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == STEPS
    assert trained(run) == unbroken


def test_scancel_stays_stopped_until_resume_and_status_and_logs_tell_it(
    shards: Path, unbroken: list[list[float]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = submit(run, shards, "srun")
    wait_until(lambda: len(read_metrics(run)) >= 2, run)
    assert f"{job} RUNNING on n[1-2]" in umt_launch("status", run).stdout
    assert umt_launch("resume", run).returncode == 1, "two jobs in one run folder"
    scancel(job)
    wait_until(lambda: not queue(job), run)
    saved = max(read_metrics(run))
    status = umt_launch("status", run).stdout
    assert f"{job} CANCELLED" in status
    assert f"step {saved}/{STEPS} |" in status
    assert f"checkpoint: step {saved}, {run}/checkpoints/step-{saved:08d}\n" in status
    assert f"stopped at step {saved} of {STEPS}" in umt_launch("logs", run).stdout
    assert umt_launch("stop", run).stdout == f"job {job} has ended already\n"
    resumed = umt_launch("resume", run)
    assert resumed.returncode == 0, resumed.stderr
    wait_until(lambda: "the schedule is done" in history(run), run)
    assert trained(run) == unbroken
    jobs = [json.loads(line)["job"] for line in (run / "launch" / "jobs.jsonl").read_text().splitlines()]
    assert f"job {jobs[1]}, start 1: exit 0" in history(run)


def test_a_node_that_fails_costs_the_steps_since_the_last_save(
    shards: Path, unbroken: list[list[float]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    submit(run, shards, "srun", "cadence.save=4")
    wait_until(lambda: len(read_metrics(run)) >= 6, run)
    node("n2", "DOWN")
    wait_until(lambda: not ranks_of(run), run)
    node("n2", "RESUME")
    wait_until(lambda: "the schedule is done" in history(run), run)
    assert re.search(r"start 2: starts on n\[1-2\], newest checkpoint: step-\d{8}\n", history(run))
    assert trained(run) == unbroken


def test_a_rank_that_hangs_is_noticed_and_the_job_requeued(
    shards: Path, unbroken: list[list[float]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    submit(run, shards, "srun", "cadence.save=4", "cadence.watchdog=5")
    wait_until(lambda: len(read_metrics(run)) >= 6, run)
    os.kill(ranks_of(run)[1], signal.SIGSTOP)
    wait_until(lambda: "the schedule is done" in history(run), run)
    assert "start 1: exit 75" in history(run)
    assert "the ranks gave up by themselves (a hang, or a NaN: see the log): requeued" in history(run)
    assert "made no progress for 5 s" in next((run / "launch").glob("slurm-*.log")).read_text()
    assert trained(run) == unbroken
