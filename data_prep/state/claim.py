"""Who works in the folder of a set: one command alone, or any number of `umt-data work` together.

    OUT/.umt-data/lock              flock: shared by those who work together, or held by one alone
    OUT/.umt-data/shards.lock       a byte for each shard, locked while a process makes it
    OUT/.umt-data/at-work/HOST-PID.json   who that is: for the words of a refusal, and instead of locks where the file
                                    system has none
    OUT/.umt-data/slurm.json        the jobs that were submitted last

A lock ends with its process, however that ends. An object store has no locks: two commands at once do the same work
twice there and publish the same bytes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from data_prep.state.writer import DISK_FULL, disk_full_is_an_error
from launchers.slurm import is_active
from umt_ds.data.shards.records import write_json
from umt_ds.data.shards.storage import is_local, remove_half_made
from umt_ds.distributed.parent import beginning
from umt_ds.environment import Environment
from umt_ds.errors import DataError, MachineError

_JOBS, _AT_WORK = "slurm.json", "at-work"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)
# A job may begin while the command that submitted it still looks, or before a node that failed has lost its lock
_PATIENCE_IN_A_JOB_S = 150.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Worker:
    """A process that works in a set."""

    host: str
    pid: int
    beginning: str | None  # tells it from a later process of the same number
    command: str
    since: str  # UTC, ISO 8601
    alone: bool

    def __str__(self) -> str:
        return f"`{self.command}`, process {self.pid} on {self.host}, since {self.since}"

    def has_ended(self) -> bool:
        """True only where that is certain; of a process on another host nothing is."""
        return self.host == socket.gethostname() and beginning(self.pid) != self.beginning


class SetInUseError(DataError):
    """Another command works in the set."""


class Claim:
    """The right to work in a set."""

    def __init__(self, state: Path, lock: IO[str] | None, me: Worker | None) -> None:
        self._state, self._lock, self._me = state, lock, me

    def share(self) -> None:
        """From now on other commands may work here too, but none may claim the set alone."""
        if self._lock is not None and self._me is not None:
            if _lock(self._lock, fcntl.LOCK_SH) is False:
                raise _refusal(self._state)
            write_json(_file_of(self._state, self._me), asdict(self._me) | {"alone": False})


@contextmanager
def claim(state: Path, *, alone: bool) -> Iterator[Claim]:
    """Work in the set whose state lies in the folder `state`: alone, or beside others who do not claim it alone.

    Before that nothing is written. Raises SetInUseError where another command works there, and says which;
    MachineError where nothing can be written, or the disk gets full.
    """
    if not is_local(state):
        yield Claim(state, None, None)
        return
    with disk_full_is_an_error(state.parent), _open_lock(state) as lock:
        has_locks = _wait_for(lock, state, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        me = _this_process(alone=alone)
        with _noted(state, me):
            others = [worker for worker in _workers(state, but=me) if alone or worker.alone]
            if others and not has_locks:
                raise _refusal(state, but=me)
            if alone:
                for worker in others:  # killed on other hosts, as they hold no lock
                    _file_of(state, worker).unlink(missing_ok=True)
                remove_half_made(state)
            yield Claim(state, lock if has_locks else None, me)


@contextmanager
def one_at_a_time(state: Path, shard: int) -> Iterator[None]:
    """Wait until no other process makes this shard; as far as the file system has locks."""
    if not is_local(state):
        yield
        return
    with (state / "shards.lock").open("a+") as lock:
        if _lock_shard(lock, shard, fcntl.LOCK_NB) is False:
            log.warning("shard %d of %s is being made by another process: waiting for it", shard, state.parent)
            _lock_shard(lock, shard, 0)
        yield


def _lock_shard(lock: IO[str], shard: int, how: int) -> bool | None:
    """False: another process holds it. None: there are no locks here."""
    return _unless_taken(lambda: fcntl.lockf(lock, fcntl.LOCK_EX | how, 1, shard))


# ---------------------------------------------------------------- the lock


@contextmanager
def _open_lock(state: Path) -> Iterator[IO[str]]:
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = (state / "lock").open("a+")
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise MachineError(
            f"cannot work in {state.parent}: {error.filename}: {error.strerror}",
            hint="making a set needs a folder that this user may write to, also if others began it",
        ) from error
    with lock:
        yield lock


def _wait_for(lock: IO[str], state: Path, how: int) -> bool:
    """Whether the file system has locks. Raises DataError where somebody else holds it."""
    patience_s = _PATIENCE_IN_A_JOB_S if Environment().text("SLURM_JOB_ID") else 0.0
    deadline = time.monotonic() + patience_s
    if (got := _lock(lock, how)) is False and patience_s:
        log.warning("waiting up to %.0f s: %s", patience_s, _refusal(state).what)
    while got is False:
        if time.monotonic() >= deadline:
            raise _refusal(state)
        time.sleep(1.0)
        got = _lock(lock, how)
    if got is None:
        log.warning("%s is on a file system without locks: the files in %s stand for them", state, state / _AT_WORK)
    return got is True


def _lock(lock: IO[str], how: int) -> bool | None:
    """False: others hold it. None: there are no locks here."""
    return _unless_taken(lambda: fcntl.flock(lock, how | fcntl.LOCK_NB))


def _unless_taken(take: Callable[[], None]) -> bool | None:
    try:
        take()
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _refusal(state: Path, *, but: Worker | None = None) -> SetInUseError:
    workers = _workers(state, but=but)
    shown = [*map(str, workers[:4]), *([f"and {len(workers) - 4} more"] if workers[4:] else [])]
    who = "".join(f"\n  {line}" for line in shown)
    return SetInUseError(
        f"another umt-data is working in {state.parent}{':' if who else ''}{who}",
        hint=f"wait for it, or stop it; of a process that is gone for certain, remove its file in {state / _AT_WORK}",
    )


# ---------------------------------------------------------------- who it is


def _this_process(*, alone: bool) -> Worker:
    command = shlex.join(["umt-data", *sys.argv[1:]])[:300]
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return Worker(socket.gethostname(), os.getpid(), beginning(os.getpid()), command, since, alone)


@contextmanager
def _noted(state: Path, me: Worker) -> Iterator[None]:
    file = _file_of(state, me)
    file.parent.mkdir(exist_ok=True)
    write_json(file, asdict(me))
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _file_of(state: Path, worker: Worker) -> Path:
    return state / _AT_WORK / f"{worker.host}-{worker.pid}.json"


def _workers(state: Path, *, but: Worker | None) -> list[Worker]:
    """Those of whom it is not certain that they have ended; the files of the others are removed."""
    found = []
    for file in sorted((state / _AT_WORK).glob("*.json")):
        worker = _read_worker(file)
        if worker is None or (but is not None and file == _file_of(state, but)):
            continue
        if worker.has_ended():
            with suppress(OSError):
                file.unlink(missing_ok=True)
        else:
            found.append(worker)
    return found


def _read_worker(file: Path) -> Worker | None:
    """None: it has ended meanwhile, or the file is somebody's."""
    try:
        record: Any = json.loads(file.read_bytes())
        worker = Worker(**record)
        return worker if isinstance(worker.pid, int) else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None


# ---------------------------------------------------------------- jobs of Slurm


def note_jobs(state: Path, jobs: tuple[str, ...]) -> None:
    """Keep the ids of what was submitted. Raises MachineError where they cannot be kept."""
    try:
        write_json(state / _JOBS, jobs)
    except OSError as error:
        ids = " ".join(jobs)
        raise MachineError(
            f"job {ids} is submitted, but could not be noted in {state / _JOBS}: {error}",
            hint=f"stop it with `scancel {ids}`, make room, and give the same command again",
        ) from error


def forget_jobs(state: Path) -> None:
    """For a set that is whole."""
    (state / _JOBS).unlink(missing_ok=True)


def refuse_beside_jobs(state: Path) -> None:
    """Raises DataError where a job that was submitted waits or runs, MachineError where Slurm does not say."""
    jobs = _jobs_of(state / _JOBS)
    if Environment().text("SLURM_JOB_ID") in jobs:  # the last of them, which Slurm began when the others had ended
        return
    try:
        active = [job for job in jobs if is_active(job)]
    except MachineError as error:
        raise MachineError(
            f"{error.what}: so nobody knows whether job {' or '.join(jobs)} works in {state.parent}",
            hint="give the command where Slurm answers; or, if these jobs have ended for certain, remove "
            f"{state / _JOBS}, which notes them",
        ) from error
    if active:
        ids = " ".join(active)
        raise DataError(
            f"job {active[0]} is already working in {state.parent}, or waits to",
            hint=f"wait for it (watch: squeue -j {','.join(active)}), or stop it: scancel {ids}; "
            "then the same command goes on",
        )


def _jobs_of(record: Path) -> list[str]:
    """The ids of the jobs that were submitted last. Raises DataError where a crash left something else."""
    if not record.is_file():
        return []
    try:
        jobs = json.loads(record.read_bytes())
        if not isinstance(jobs, list) or not all(isinstance(job, str) and re.fullmatch("[0-9]+", job) for job in jobs):
            raise ValueError
        return jobs
    except (ValueError, RecursionError):
        raise DataError(
            f"{record} does not hold job ids, so nobody knows whether a job works in this set",
            hint="look at squeue; remove that file if none does",
        ) from None
