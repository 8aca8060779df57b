"""Worker processes and the machine: they die with their trainer, and what it refuses them is one error."""

from __future__ import annotations

import faulthandler
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import synchronize
from pathlib import Path
from typing import Any

import pytest
import torch

from umt_ds.data import pipeline
from umt_ds.data.pipeline import WorkerPool
from umt_ds.errors import MachineError

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def start(build: Callable[[int], Any], *, workers: int = 2) -> WorkerPool[Any]:
    return WorkerPool(build, first=0, num_workers=workers, prefetch=2, stall_limit_s=30)


def take_all(build: Callable[[int], Any], *, workers: int = 1) -> None:
    running = start(build, workers=workers)
    try:
        for _ in range(20):
            running.take()
    finally:
        running.close()


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Any:
    others = set(multiprocessing.active_children())  # of tests in other files
    yield
    deadline = time.monotonic() + 10  # one that was killed is there until the machine comes to it
    while not (left := set(multiprocessing.active_children())) <= others:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


# ---------------------------------------------------------------- no orphans


def loop_for_ever(number: int) -> None:
    while True:
        pass


def trainer_killed(build: Callable[[int], Any], *, after_s: float) -> list[int]:
    """Kill a process that makes a pipeline; the ids of its two workers."""
    told, tell = os.pipe()
    trainer = os.fork()
    if trainer == 0:
        try:
            running = start(build)
            os.write(tell, " ".join(str(worker.pid) for worker in running._workers).encode())
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(tell)  # else nobody would hear that the fork ended without a word
    workers = [int(word) for word in os.read(told, 99).split()]
    assert len(workers) == 2
    time.sleep(after_s)
    os.kill(trainer, signal.SIGKILL)
    os.waitpid(trainer, 0)
    return workers


def assert_all_end(pids: list[int], *, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while left := [pid for pid in pids if is_alive(pid)]:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"{len(left)} of {len(pids)} workers live on")
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def test_workers_end_with_their_trainer_even_if_they_loop_in_their_source() -> None:
    assert_all_end(trainer_killed(loop_for_ever, after_s=0.3), within_s=3)


def test_workers_whose_trainer_is_gone_before_they_begin_end(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = pipeline._start_worker

    def late(number: int) -> None:
        time.sleep(0.5)
        begin(number)

    monkeypatch.setattr(pipeline, "_start_worker", late)
    assert_all_end(trainer_killed(loop_for_ever, after_s=0), within_s=5)


def test_closing_ends_workers_that_loop_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_LEAVE_S", 0.2)
    running = start(loop_for_ever)
    began = time.monotonic()
    running.close()
    assert time.monotonic() - began < 3


def test_closing_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else workers that nobody ended would be waited for, for ever, when the trainer exits."""
    running = start(loop_for_ever)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    workers = running._workers
    monkeypatch.setattr(threading.Thread, "start", refuse)
    try:
        running.close()
        assert not any(worker.is_alive() for worker in workers)
    finally:
        pipeline._kill(workers)


# ---------------------------------------------------------------- workers that die


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_worker_that_is_killed_while_it_starts_is_one_error(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def end(_: int) -> None:
        faulthandler.disable()  # pytest's prints the stack of a SIGBUS
        os.kill(os.getpid(), number)

    monkeypatch.setattr(pipeline, "_start_worker", end)
    monkeypatch.setattr(pipeline, "_POLL_S", 0.2)
    with pytest.raises(MachineError, match=f"a loader worker died: killed by {number.name}") as caught:
        take_all(loop_for_ever)
    assert "--shm-size" in str(caught.value)


def test_a_worker_that_dies_interrupts_nothing() -> None:
    """torch's handler of SIGCHLD would raise in whatever the trainer is doing, the start of the next worker too."""
    before = signal.getsignal(signal.SIGCHLD)
    running = start(loop_for_ever)
    assert signal.getsignal(signal.SIGCHLD) is before
    running._workers[0].kill()
    running._workers[0].join()
    running.close()


@pytest.mark.timeout(20)
def test_a_worker_that_is_killed_while_it_asks_whether_to_leave_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer, ask = os.getpid(), synchronize.Event.is_set

    def killed_while_it_asks(event: synchronize.Event) -> bool:
        if os.getpid() != trainer:
            event._cond.acquire()  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGKILL)
        return ask(event)

    monkeypatch.setattr(synchronize.Event, "is_set", killed_while_it_asks)
    running = start(lambda number: number)
    multiprocessing.connection.wait([worker.sentinel for worker in running._workers], timeout=0.5)
    running.close()


def test_how_a_worker_ended_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(number: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(pipeline, "_POLL_S", 0.2)
    with pytest.raises(MachineError, match="a loader worker died: killed by SIGKILL") as caught:
        take_all(end)
    assert "--shm-size" in str(caught.value)


# ---------------------------------------------------------------- what the machine refuses


class Refusing:
    """A tensor that cannot be handed over."""

    def __reduce__(self) -> Any:
        text = "unable to allocate shared memory(shm) for file </torch_9_9_9>: No space left on device (28)"
        raise RuntimeError(text)


def refuse_memory(number: int) -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("build", "said", "hint"),
    [
        (lambda number: {"a": Refusing()}, "No space left on device", "--shm-size"),
        (refuse_memory, "MemoryError in test_pipeline.py", "out of memory"),
    ],
)
def test_a_worker_that_is_refused_memory_says_so_at_once(
    build: Callable[[int], Any], said: str, hint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also where a batch is pickled: in the queue's own thread that error would be printed and lost."""
    began = time.monotonic()
    with pytest.raises(MachineError, match="a loader worker cannot make a batch") as caught:
        take_all(build)
    assert time.monotonic() - began < 10
    assert said in caught.value.what
    assert hint in str(caught.value.hint)
    assert "Traceback" not in capfd.readouterr().err


def test_too_few_open_files_are_one_error_with_the_limit(capfd: pytest.CaptureFixture[str]) -> None:
    kept = []

    def hoard(number: int) -> torch.Tensor:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        kept.extend(os.dup(0) for _ in range(5))
        return torch.zeros(3)

    with pytest.raises(MachineError, match=r"loader worker cannot (make|hand over) a batch") as caught:
        take_all(hoard)
    assert "ulimit -n" in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


def test_a_worker_without_threads_tells_the_trainer(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """torch's queue starts one for the first batch; what fails there ends the worker."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def build(number: int) -> int:
        threading.Thread.start = refuse  # type: ignore[method-assign,assignment]  # in the worker's process
        return number

    monkeypatch.setattr(pipeline, "_POLL_S", 0.2)
    with pytest.raises(MachineError, match="a loader worker cannot go on: can't start new thread") as caught:
        take_all(build)
    assert "ulimit -u" in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


def test_a_process_that_cannot_be_started_ends_those_that_were(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fork, forks = os.fork, iter([True, True, False])

    def refuse() -> int:
        if next(forks):
            return fork()
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(MachineError, match="could start 2 worker processes and no more") as caught:
        start(loop_for_ever, workers=3)
    monkeypatch.undo()
    assert "ulimit -u" in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err
