"""Kills of loader workers and of the processes that own them, one a second, many while they start.

    python -m tests.drills.loader_soak --minutes 5

After each kill the next process goes on where the last one came to. In the end every step was shown once, with the
clips of an unbroken run; nobody lives on; and nothing is left in the temporary folder and in /dev/shm.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import util
from pathlib import Path

import click

from tests.support.jobs import children, write_clips
from tests.support.loading import PLAN, spec
from umt_ds.data import pipeline
from umt_ds.data.loader import Loader, LoaderPlan
from umt_ds.data.worker import BatchBuilder
from umt_ds.errors import EXIT_FAILED, MachineError

WORKERS = 2
_SOON_S = 10.0  # for processes to be gone; the machine may be busy


@dataclass
class Soak:
    """Processes with loaders on `shards`, started and killed one after the other; `folder` is theirs."""

    shards: Path
    folder: Path
    plan: LoaderPlan
    kills: Counter[str] = field(default_factory=Counter)
    pids: set[int] = field(default_factory=set)

    def run(self, seconds: float) -> str:
        """Kill for so long; a sentence on what came of it. AssertionError where something did."""
        self.temporary.mkdir(parents=True)
        self.shown.touch()
        pipeline._POLL_S = 0.2
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._kill_one(self._start(), after_s=random.choice([random.uniform(0, 0.1), random.uniform(0, 1.5)]))
        steps = self._check_steps()
        self._check_nothing_is_left()
        kills = ", ".join(f"{count} {what}" for what, count in sorted(self.kills.items()))
        return f"{self.kills.total()} kills ({kills}), {steps} steps: nothing lost, repeated, orphaned or left behind"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def shown(self) -> Path:
        """A line for each step that was shown."""
        return self.folder / "shown.txt"

    def _start(self, *, steps: int | None = None) -> int:
        """A process in a session of its own that shows step after step from where the last one came to."""
        first = len(self.shown.read_text().splitlines())
        process = os.fork()
        if process == 0:
            code = EXIT_FAILED
            try:
                os.setsid()
                tempfile.tempdir = str(self.temporary)
                self._show(first, steps)
                code = 0
            except MachineError as error:
                if "a loader worker died" not in error.what:
                    code = 99
                    print(
                        f"after the kill of a worker: {error!r} from {error.__cause__!r}", file=sys.stderr, flush=True
                    )
            finally:
                os._exit(code)
        return process

    def _show(self, first: int, steps: int | None) -> None:
        loader = Loader([spec(self.shards)], self.plan)
        file = os.open(self.shown, os.O_WRONLY | os.O_APPEND)
        step = first
        while steps is None or step < first + steps:
            for batch in loader.micro_batches(step):
                os.write(file, f"{step} {batch.digest}\n".encode())
            step += 1
        loader.close()
        util._exit_function()  # type: ignore[attr-defined]  # what a process that ends does, and a fork does not

    def _kill_one(self, process: int, *, after_s: float) -> None:
        time.sleep(after_s)
        workers = children(process)
        self.pids |= {process, *workers}
        when = "at work" if len(workers) == WORKERS else "starting"
        if workers and random.random() < 0.5:
            os.kill(random.choice(workers), signal.SIGKILL)
            self.kills[f"of workers ({when})"] += 1
            self._assert_ends(process, EXIT_FAILED)
        else:
            os.kill(process, signal.SIGKILL)
            self.kills[f"of trainers ({when})"] += 1
            self._assert_ends(process, -signal.SIGKILL)
        _wait(lambda: not _in_session(process), f"workers of {process} live on")

    def _assert_ends(self, process: int, code: int) -> None:
        ended: list[int] = []

        def has_ended() -> bool:
            pid, status = os.waitpid(process, os.WNOHANG)
            ended.append(os.waitstatus_to_exitcode(status))
            return pid == process

        _wait(has_ended, f"{process} does not end")
        assert ended[-1] == code, f"exit code {ended[-1]} instead of {code}"

    def _check_steps(self) -> int:
        builder = BatchBuilder([spec(self.shards)], self.plan)
        lines = [tuple(map(int, line.split())) for line in self.shown.read_text().splitlines()]
        for number, line in enumerate(lines):
            (part,) = builder(number).parts
            assert line == (number, part.batch.digest), f"line {number} shows {line}"
        return len(lines)

    def _check_nothing_is_left(self) -> None:
        """The next start cleans up, and leaves nothing itself."""
        self._assert_ends(self._start(steps=3), 0)
        left = [path.name for path in self.temporary.iterdir()]
        assert not left, f"left in the temporary folder: {left}"
        shared = [path.name for path in Path("/dev/shm").glob("*")]
        ours = [name for name in shared if name.startswith("sem.umtp-") or _pid_of(name) in self.pids]
        assert not ours, f"left in /dev/shm: {ours}"


def _pid_of(name: str) -> int | None:
    words = name.split("_")
    return int(words[1]) if words[0] == "torch" and len(words) > 1 and words[1].isdecimal() else None


def _in_session(leader: int) -> list[int]:
    """The processes of a session that are alive."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (folder / "stat").read_text().rpartition(") ")[2].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state not in "ZX":
            found.append(int(folder.name))
    return found


def _wait(condition: Callable[[], object], problem: str) -> None:
    deadline = time.monotonic() + _SOON_S
    while not condition():
        assert time.monotonic() < deadline, problem
        time.sleep(0.01)


def soak(folder: Path, *, seconds: float) -> str:
    """Soak a loader of two workers on a few clips."""
    shards = write_clips(folder / "shards")
    plan = LoaderPlan(seed=PLAN.seed, global_draws=4, micro=4, image_side=32, window=2, num_workers=WORKERS)
    return Soak(shards, folder, plan).run(seconds)


@click.command()
@click.option("--minutes", type=float, default=1.0, show_default=True)
def main(minutes: float) -> None:
    """Kill loaders for so long, and say what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        click.echo(soak(Path(folder), seconds=60 * minutes))


if __name__ == "__main__":
    main()
