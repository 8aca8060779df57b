"""umt-launch: what is submitted, and what the batch shell does with signals (with stand-ins for srun and scontrol)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launchers.slurm import SlurmJob, render
from tests.support.ranks import environment
from umt_ds.errors import MachineError

RUN = ["demo/stage1", "task.teacher.weights=random", "data.sources.demo.shards=/data/x"]


def launch(*words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = environment() | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})
    code = "from launchers.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, check=False)


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def test_dry_run_prints_a_valid_script_and_writes_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = launch(*RUN, "--nodes", "2", "--gpus-per-node", "8", "--dry-run", f"run_dir={run}", "batch.global=256")
    assert done.returncode == 0, done.stderr
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=False).returncode == 0
    for line in ("--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--signal=B:USR1@600", "--requeue"):
        assert f"#SBATCH {line}\n" in done.stdout
    assert not run.exists()


def test_an_impossible_batch_is_refused_before_the_queue_with_2() -> None:
    done = launch(*RUN, "--nodes", "3", "--gpus-per-node", "8", "--dry-run")
    assert done.returncode == 2
    assert "batch.global=32" in done.stderr


def test_the_script_is_submitted_and_the_job_id_told(tmp_path: Path) -> None:
    program(tmp_path, "sbatch", f'cp "$2" {tmp_path}/submitted; echo 4711')
    done = launch(*RUN, "--nodes", "1", "--gpus-per-node", "2", f"run_dir={tmp_path / 'run'}", path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "job 4711" in done.stdout
    assert (tmp_path / "submitted").read_text() == (tmp_path / "run" / "train.sbatch").read_text()


def test_what_sbatch_refuses_is_told(tmp_path: Path) -> None:
    program(tmp_path, "sbatch", "echo 'invalid partition' >&2; exit 1")
    done = launch(*RUN, "--gpus-per-node", "2", f"run_dir={tmp_path / 'run'}", path=tmp_path)
    assert done.returncode == 1
    assert "invalid partition" in done.stderr


def test_white_space_in_the_run_folder_is_refused() -> None:
    with pytest.raises(MachineError, match="white space"):
        render(SlurmJob("x", Path("/my runs/x"), nodes=1, tasks_per_node=1, grace_s=60, command=["umt"]))


@pytest.mark.parametrize("asked", [True, False])
def test_the_batch_shell_requeues_what_stopped_by_its_own_signal_and_nothing_else(asked: bool, tmp_path: Path) -> None:
    """The stand-in for srun stops with 75, as ranks do, once the stop file is there."""
    run = tmp_path / "run"
    run.mkdir()
    program(tmp_path, "srun", f"touch {run}/started; until [ -e {run}/stop ]; do sleep 0.05; done; sleep 0.2; exit 75")
    program(tmp_path, "scontrol", f'echo "$@" >> {tmp_path}/scontrol.log')
    script = tmp_path / "train.sbatch"
    script.write_text(render(SlurmJob("x", run, nodes=1, tasks_per_node=2, grace_s=60, command=["umt", "train"])))
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "12"}
    shell = subprocess.Popen(["bash", str(script)], env=env)
    deadline = time.monotonic() + 20
    while not (run / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if asked:
        shell.send_signal(signal.SIGUSR1)
    else:
        (run / "stop").touch()
    assert shell.wait(timeout=20) == 75
    log = tmp_path / "scontrol.log"
    assert (log.read_text() if log.exists() else "") == ("requeue 12\n" if asked else "")
