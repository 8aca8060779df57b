"""What can happen to a training job, one function a fault: it makes the fault happen, looks at what the job did about
it, and goes on. The first line of the docstring is the row of the table.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.drills.drill import CannotBeDone, Drill, Outcome
from tests.drills.loader_soak import soak
from tests.support.jobs import SAVE, STEPS, TrainingJob, evaluated_each
from umt_ds.engine.manifest import CHECKPOINTS, LATEST
from umt_ds.engine.metrics_file import METRICS, read_metrics, read_scores
from umt_ds.errors import EXIT_FAILED, EXIT_STOPPED

# ---------------------------------------------------------------- processes that die


def kill_a_rank(drill: Drill) -> Outcome:
    """SIGKILL of a random rank at a random step"""
    job = at_a_random_step(drill.start())
    os.kill(random.choice(job.ranks()), signal.SIGKILL)
    job.wait(code=EXIT_FAILED)
    return drill.go_on("the others end, exit 1")


def kill_everything(drill: Drill) -> Outcome:
    """SIGKILL of all processes at once (power cut) at a random step"""
    at_a_random_step(drill.start()).kill()
    return drill.go_on("all gone")


def kill_while_starting(drill: Drill) -> Outcome:
    """SIGKILL of all processes at a random moment of a start"""
    drill.stopped_at(6)
    job = drill.start()
    time.sleep(random.uniform(0, 8))
    job.kill()
    return drill.go_on("all gone")


def kill_the_launcher(drill: Drill) -> Outcome:
    """SIGKILL of the launcher, not of its ranks"""
    job = at_a_random_step(drill.start())
    job.signal_all(signal.SIGSTOP)  # or a fast job could end by itself before it is told
    os.kill(job.process.pid, signal.SIGKILL)
    job.signal_all(signal.SIGCONT)
    wait_until(lambda: not job.processes(), "the ranks live on without their launcher")
    assert max(read_metrics(job.run)) < STEPS, "the ranks trained on without their launcher"
    return drill.go_on("the ranks end")


def kill_during_a_save(drill: Drill) -> Outcome:
    """SIGKILL of all processes in the middle of a save"""
    job = drill.start()
    job.wait_for_step(SAVE + 1)
    while True:  # freeze the job once a save has begun, and look again: it may have been at its end
        wait_until(lambda: bool(partial_saves(job)), "no save is seen", poll_s=0.0005)
        job.signal_all(signal.SIGSTOP)
        if partial_saves(job):
            break
        job.signal_all(signal.SIGCONT)
    job.kill()
    return drill.go_on("half a checkpoint is left and ignored")


def kill_during_an_evaluation(drill: Drill) -> Outcome:
    """SIGKILL of all processes in the middle of an evaluation, of the averaged weights"""
    evaluated = [*evaluated_each(STEPS // 2, drill.shards), "evaluation.knn.ema=true"]
    job = drill.start(*evaluated)

    def is_evaluating() -> bool:
        return scored_steps(job) == [] and (job.run / CHECKPOINTS / f"step-{STEPS // 2:08d}").is_dir()

    wait_until(is_evaluating, "no evaluation is seen", poll_s=0.0005)
    job.signal_all(signal.SIGSTOP)
    assert is_evaluating(), "the evaluation was over before it could be stopped"
    job.kill()
    outcome = drill.go_on("no step is lost, and it is evaluated first", *evaluated, most_lost=0)
    assert scored_steps(job) == [STEPS // 2, STEPS], f"evaluated after the steps {scored_steps(job)}"
    return outcome


def kill_a_loader_worker(drill: Drill) -> Outcome:
    """SIGKILL of a loader worker (out of memory)"""
    job = at_a_random_step(drill.start())
    os.kill(job.workers(rank=random.randrange(2))[0], signal.SIGKILL)
    job.wait(code=EXIT_FAILED, says="a loader worker died")
    return drill.go_on('"a loader worker died", exit 1')


def loader_kills(drill: Drill) -> Outcome:
    """SIGKILL of loader workers and their trainers, one a second, many while they start"""
    return Outcome(soak(drill.run, seconds=20), 0)


def stop_a_rank(drill: Drill) -> Outcome:
    """SIGSTOP of a rank: it hangs"""
    job = at_a_random_step(drill.start("cadence.watchdog=5"))
    os.kill(random.choice(job.ranks()), signal.SIGSTOP)
    job.wait(code=EXIT_STOPPED, says="made no progress for")
    return drill.go_on("the watchdog ends the job, exit 75")


# ---------------------------------------------------------------- checkpoints that are damaged


def flip_a_byte(drill: Drill) -> Outcome:
    """A byte of the newest checkpoint is flipped"""
    damage(random_file(drill.stopped_at(6)))
    return drill.go_on("the checkpoint is refused by its sha256", most_lost=SAVE, says="(sha256 differs)")


def truncate_a_file(drill: Drill) -> Outcome:
    """A file of the newest checkpoint is truncated"""
    file = random_file(drill.stopped_at(6))
    os.truncate(file, random.randrange(file.stat().st_size))
    return drill.go_on("the checkpoint is refused by its size", most_lost=SAVE, says="bytes instead of")


def damage_all_checkpoints(drill: Drill) -> Outcome:
    """A byte of every checkpoint is flipped; later the disk is repaired"""
    newest = drill.stopped_at(6)
    files = [random_file(folder) for folder in newest.parent.glob("step-*")]
    flipped = [(file, damage(file)) for file in files]
    drill.start().wait(code=EXIT_FAILED, says="no usable checkpoint")
    for file, position in flipped:
        damage(file, at=position)  # flipped twice is whole
    return drill.go_on('"no usable checkpoint", exit 1', most_lost=0)


def delete_latest(drill: Drill) -> Outcome:
    """The file LATEST is deleted"""
    drill.stopped_at(6).with_name(LATEST).unlink()
    return drill.go_on("not needed", most_lost=0)


def delete_the_newest(drill: Drill) -> Outcome:
    """The newest checkpoint is deleted, LATEST names it"""
    shutil.rmtree(drill.stopped_at(6))
    return drill.go_on("the one before is taken", most_lost=SAVE)


# ---------------------------------------------------------------- disks that are full


def fill_the_disk(drill: Drill) -> Outcome:
    """The disk becomes full during a save (a tmpfs of 40 MiB)"""
    with small_disk(drill.run, mebibytes=40) as grow:  # two checkpoints of 19 MiB
        drill.start().wait(code=EXIT_FAILED, says="free some space and start the same command again")
        grow()
        return drill.go_on('"free some space", exit 1')


def limit_file_size(drill: Drill) -> Outcome:
    """Files cannot grow any more during a save (RLIMIT_FSIZE)"""
    job = drill.start()
    job.wait_for_step(SAVE + 1)
    for pid in job.processes():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    job.wait(code=EXIT_FAILED, says="free some space and start the same command again")
    return drill.go_on('"free some space", exit 1')


FAULTS: tuple[Callable[[Drill], Outcome], ...] = (
    kill_a_rank, kill_everything, kill_while_starting, kill_the_launcher, kill_during_a_save, kill_during_an_evaluation,
    kill_a_loader_worker,
    loader_kills, stop_a_rank, flip_a_byte, truncate_a_file, damage_all_checkpoints, delete_latest, delete_the_newest,
    fill_the_disk, limit_file_size,
)  # fmt: skip
SHORT = (kill_a_rank, kill_the_launcher, kill_during_a_save, stop_a_rank, flip_a_byte, limit_file_size)

# ---------------------------------------------------------------- the means


def at_a_random_step(job: TrainingJob) -> TrainingJob:
    """Wait for a step after the first checkpoint and well before the end.

    A step is logged when the next has ended, and a wish to stop is heard a step later: half of a job is left for that.
    """
    job.wait_for_step(random.randint(SAVE + 1, STEPS // 2))
    return job


def wait_until(condition: Callable[[], bool], problem: str, *, timeout_s: float = 60, poll_s: float = 0.05) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, problem
        time.sleep(poll_s)


def partial_saves(job: TrainingJob) -> list[Path]:
    return list((job.run / CHECKPOINTS).glob("step-*.partial"))


def scored_steps(job: TrainingJob) -> list[int]:
    """After how many steps the job was evaluated."""
    return [found.step for found in read_scores(job.run / METRICS)]


def random_file(checkpoint: Path) -> Path:
    """One of the tensor files."""
    return random.choice(sorted(checkpoint.glob("*.safetensors")))


def damage(file: Path, *, at: int | None = None) -> int:
    """Flip the bits of one byte; its position."""
    position = random.randrange(file.stat().st_size) if at is None else at
    with file.open("r+b") as content:
        content.seek(position)
        byte = content.read(1)[0]
        content.seek(position)
        content.write(bytes([byte ^ 0xFF]))
    return position


@contextmanager
def small_disk(folder: Path, *, mebibytes: int) -> Iterator[Callable[[], None]]:
    """Mount a tmpfs of that size on `folder`; what is given makes it large."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        raise CannotBeDone("mounting a tmpfs needs root")
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=1g", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
