"""A job that is broken or stopped goes on from its last checkpoint as if nothing had happened."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.jobs import start_job, write_clips
from tests.support.ranks import REPO, environment
from umt_ds.engine.metrics_file import read_metrics

pytestmark = pytest.mark.e2e


def test_a_power_cut_and_a_damaged_checkpoint_end_in_the_unbroken_run_bit_for_bit(tmp_path: Path) -> None:
    """Two of the drills (`make drills`), through their own runner."""
    words = ["--only", "kill-everything", "--only", "flip-a-byte", "--folder", str(tmp_path)]
    command = [sys.executable, "-m", "tests.drills", *words]
    done = subprocess.run(command, cwd=REPO, env=environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("equal bit for bit") == 2


def test_sigusr1_to_the_launcher_stops_all_ranks_at_one_step_resumably(tmp_path: Path) -> None:
    job = start_job(tmp_path / "run", write_clips(tmp_path / "shards"), "schedule.steps=100000")
    try:
        job.wait_for_step(1)
        job.process.send_signal(signal.SIGUSR1)
        job.wait(code=75)
    finally:
        job.kill()
    last = max(read_metrics(job.run))
    assert (job.run / "checkpoints" / "LATEST").read_text().strip() == f"step-{last:08d}"
