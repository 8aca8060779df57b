"""Many processes on this machine that may die.

A decoder may hang or crash on a file; here that costs this file and not the run, because each item is worked on in a
process that is killed and replaced. A Slurm or Ray task works in the same way: see `cluster.py`.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import resource
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from umt_ds.distributed.parent import die_with_the_parent
from umt_ds.errors import MachineError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Whatever a decoder leaks is gone when its process is: a worker is replaced now and then.
_ITEMS_PER_PROCESS = 1000
# Items under way or waiting to be collected, per worker: enough that one slow item does not stop the other workers.
_AHEAD = 16


_GIVE_BACK = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's


@dataclass(frozen=True)
class WorkerFailure:
    """An item whose worker was killed or died, and why. by: the signal that did it, or 0."""

    reason: str
    by: int = 0


def map_ordered(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    timeout_s: float,
    memory_gb: float | None = None,
) -> Generator[Result | WorkerFailure, None, None]:
    """`work(item)` for each item, by `workers` processes, in the order of the items.

    An item has `timeout_s`, in which waiting for a store does not count (`fetch.clock_stopped`). A process that asks
    for more than `memory_gb` gets a MemoryError. Results wait in memory for the slowest item before them, at most 16 a
    worker. What `work` raises is raised here: a bug, or the MachineError that ends the command. Processes are spawned,
    not forked: a fork would inherit torch and open readers.
    """
    # max_tasks counts per process; pebble starts the next one by itself
    pool = ProcessPool(
        workers,
        max_tasks=_ITEMS_PER_PROCESS,
        initializer=_start_worker,
        initargs=(memory_gb,),
        context=multiprocessing.get_context("spawn"),
    )
    waiting = iter(items)

    def begin(item: Item) -> ProcessFuture[Result]:
        try:
            with _interrupts_held_back():
                return pool.schedule(_work_in_time, args=(work, item, timeout_s))
        except BrokenProcessPool as error:
            raise _broken(error) from error

    under_way: deque[tuple[Item, ProcessFuture[Result]]] = deque()
    try:
        while True:
            for item in islice(waiting, workers * _AHEAD - len(under_way)):
                under_way.append((item, begin(item)))
            if not under_way:
                return
            item, future = under_way.popleft()
            outcome = _outcome(future, timeout_s)
            if isinstance(outcome, WorkerFailure) and outcome.by == signal.SIGKILL:
                # no decoder does that: who is out of memory kills the largest process, and not the guilty one
                outcome = _outcome(begin(item), timeout_s)
            yield outcome
    finally:
        pool.stop()  # type: ignore[no-untyped-call]  # (pebble 5.2)
        pool.join()


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C signals all processes of a terminal. Those that are started in here never see it, for a process inherits
    what its starter blocks: the command alone ends them, and no traceback of theirs is written over its last words."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(memory_gb: float | None) -> None:
    """A small file can claim an enormous picture: a limit makes that an error of this file. It ends with its parent."""
    die_with_the_parent()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever code it is in
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    if memory_gb is not None:
        size = int(memory_gb * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _work_in_time(work: Callable[[Item], Result], item: Item, timeout_s: float) -> Result:
    """Ends this process after `timeout_s`. Pictures of changing sizes leave holes in glibc's heap: a worker grew from
    62 to 150 MB over 1,000 clips, and to 64 MB where the holes are given back after each (1 ms)."""
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        return work(item)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if _GIVE_BACK is not None:
            _GIVE_BACK(0)


def _outcome(future: ProcessFuture[Result], timeout_s: float) -> Result | WorkerFailure:
    try:
        return future.result()
    except ProcessExpired as error:
        if error.exitcode == -signal.SIGALRM:
            return WorkerFailure(f"decoding took longer than {timeout_s:g} s and was stopped", signal.SIGALRM)
        return WorkerFailure(f"the decoder crashed ({_cause(error.exitcode)})", max(0, -error.exitcode))
    except BrokenProcessPool as error:
        raise _broken(error) from error


def _broken(error: BrokenProcessPool) -> MachineError:
    return MachineError(
        f"the worker processes cannot run{f': {error}' if str(error) else ''}",
        hint="none could be started, or they ended before they got work: out of memory, no room for processes "
        "(`ulimit -u`), or a broken installation; then give the same command again: it goes on where this one ended",
    )


def _cause(exitcode: int) -> str:
    if exitcode >= 0:
        return f"exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
