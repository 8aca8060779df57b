"""Small training jobs as users start them: `umt train demo/stage1 --ranks N` in a process group of its own.

A job is the pocket student on noise clips of 64×48, a random teacher, drop path on, a few steps of four clips.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.support.ranks import environment
from tests.support.shards import picture, record, write_shards
from umt_ds.engine.metrics_file import read_metrics

STEPS, SAVE = 10, 2  # length of a job, and its cadence.save


def noise_clip(number: int) -> dict[str, bytes]:
    """The members of sample `number`: ten frames of noise, larger than the 64 pixels that the student sees."""
    noise = np.random.default_rng(number).integers(0, 256, (10, 48, 64, 3), dtype=np.uint8)
    return {**record(number), **{f"{i:03d}.png": picture(image) for i, image in enumerate(noise)}}


def write_clips(folder: Path, counts: tuple[int, ...] = (5, 6)) -> Path:
    """Shards of `noise_clip`s with so many samples each."""
    return write_shards(folder, counts, members=noise_clip)


@dataclass(frozen=True)
class TrainingJob:
    """A started job: the launcher process, its run folder, the file with all that it and its ranks print."""

    process: subprocess.Popen[bytes]
    run: Path
    console: Path

    def output(self) -> str:
        return self.console.read_text(errors="replace")

    def wait(self, *, code: int, says: str = "", timeout_s: float = 180) -> str:
        """Wait for the end; all that was printed. Fails on another exit code, without `says`, and after timeout_s."""
        try:
            found = self.process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the job did not end within {timeout_s:.0f} s") from None
        assert found == code, f"exit code {found} instead of {code}"
        output = self.output()
        assert says in output, f"it does not say {says!r}"
        return output

    def wait_for_step(self, step: int, *, timeout_s: float = 120) -> int:
        """Wait until `step` is logged; the newest logged step."""
        deadline = time.monotonic() + timeout_s
        while (newest := max(read_metrics(self.run), default=0)) < step:
            assert self.process.poll() is None, "the job ended too early"
            assert time.monotonic() < deadline, "the job makes no progress"
            time.sleep(0.02)
        return newest

    def ranks(self) -> list[int]:
        """Process ids by rank."""
        return sorted(children(self.process.pid), key=_rank_of)

    def workers(self, rank: int) -> list[int]:
        """Process ids of the loader workers of a rank (forks, so they have its command line)."""
        parent = self.ranks()[rank]
        return [pid for pid in children(parent) if _proc(pid, "cmdline") == _proc(parent, "cmdline")]

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to every process of the job that is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL to every process of the job."""
        self.signal_all(signal.SIGKILL)
        self.process.wait()

    def processes(self) -> list[int]:
        """Process ids of the launcher and all that it started, as far as they are alive."""
        self.process.poll()
        return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if _group_of(folder) == self.process.pid]


def start_job(run: Path, shards: Path | str, *overrides: str, ranks: int = 2) -> TrainingJob:
    """Start a job, or start it again: settings can be overridden, the ones here are the same each time."""
    command = [
        sys.executable, "-m", "umt_ds", "train", "demo/stage1", "--ranks", str(ranks), f"run_dir={run}",
        f"data.sources.demo.shards={shards}", "task.teacher.weights=random", "task.student.drop_path=0.2",
        "data.workers=1", "batch.global=4", "batch.micro=2", f"schedule.steps={STEPS}", "schedule.warmup_steps=1",
        "cadence.log=1", f"cadence.save={SAVE}", "cadence.keep=9", "cadence.evaluate=0", "report.tensorboard=false",
        *overrides,
    ]  # fmt: skip
    run.parent.mkdir(parents=True, exist_ok=True)
    number = 1 + len(list(run.parent.glob(f"{run.name}.*.txt")))
    console = run.with_name(f"{run.name}.{number}.txt")
    with console.open("w") as out:
        process = subprocess.Popen(
            command, env=environment(), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    return TrainingJob(process, run, console)


def evaluated_each(steps: int, shards: Path | str) -> list[str]:
    """Overrides for a job that is evaluated after so many steps, by what its features know of the clips in `shards`."""
    return [f"cadence.evaluate={steps}", f"evaluation.knn={{kind: knn, shards: {shards}}}"]


# ---------------------------------------------------------------- processes (Linux)


def children(pid: int) -> list[int]:
    """Process ids of the living children of a process."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _rank_of(pid: int) -> int:
    entries = dict(entry.split("=", 1) for entry in _proc(pid, "environ").split("\0") if "=" in entry)
    return int(entries["RANK"])


def _proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def _group_of(process: Path) -> int | None:
    """The process group of a folder of /proc; None where the process has ended."""
    try:
        state, _, group = (process / "stat").read_text().rpartition(") ")[2].split()[:3]
    except OSError:
        return None
    return None if state == "Z" else int(group)
