"""Many processes on this machine that may die.

A decoder may hang or crash on a file; here that costs this file and not the run, because each item is worked on in a
process that is killed and replaced. A Slurm or Ray task works in the same way: see `cluster.py`.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import resource
import signal
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection, resource_tracker
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from umt_ds.distributed.parent import die_with_the_parent
from umt_ds.errors import MachineError, UmtError

Item = TypeVar("Item")
Result = TypeVar("Result")
Told = TypeVar("Told")

# Whatever a decoder leaks is gone when its process is: a worker is replaced now and then.
_ITEMS_PER_PROCESS = 1000
# Items under way or waiting to be collected, per worker: enough that one slow item does not stop the other workers, and
# as many as find room on disk, by the mean of those before; but always so many that a worker finds its next one.
_AHEAD, _LEAST_AHEAD = 16, 2
_ROOM_A_WORKER = 256 << 20  # bytes


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
    disk_use: Callable[[Result], int] = lambda result: 0,
) -> Generator[Result | WorkerFailure, None, None]:
    """`work(item)` for each item, by `workers` processes, in the order of the items.

    An item has `timeout_s` (more if it asks for it: `take_longer`), in which waiting for a store does not count
    (`fetch.clock_stopped`). A process that asks for more than `memory_gb` gets a MemoryError. Results wait for the
    slowest item before them: at most 16 a worker; of a large `disk_use` as many as make 256 MB, or two.
    What `work` raises is raised here: a bug, or the MachineError that ends the command. Processes are spawned,
    not forked: a fork would inherit torch and open readers.
    """
    # max_tasks counts per process; pebble starts the next one by itself
    pool = _Pool(
        workers,
        max_tasks=_ITEMS_PER_PROCESS,
        initializer=_start_worker,
        initargs=(memory_gb,),
        context=multiprocessing.get_context("spawn"),
    )

    def begin(item: Item) -> ProcessFuture[Result]:
        try:
            with _interrupts_held_back():
                return pool.schedule(_work_in_time, args=(work, item, timeout_s))
        except BrokenProcessPool as error:
            raise _broken(error) from error

    waiting = iter(items)
    queue = _Queue[Item, Result](workers, disk_use)
    try:
        while True:
            for item in queue.room_for(waiting):
                queue.add(item, begin(item))
            if not queue:
                return
            queue.note_ended(wait=not queue.first_has_ended())
            if not queue.first_has_ended():
                continue  # another one has, so there may be room
            item, future = queue.take_first()
            outcome = _outcome(future, timeout_s)
            if isinstance(outcome, WorkerFailure) and outcome.by == signal.SIGKILL:
                # no decoder does that: who is out of memory kills the largest process, and not the guilty one
                outcome = _outcome(begin(item), timeout_s)
            yield outcome
    finally:
        pool.stop()  # type: ignore[no-untyped-call]  # (pebble 5.2)
        pool.join()


class _Pool(ProcessPool):
    """pebble's (5.2), but the workers end before the semaphores that they share with it: one that is still starting
    would print a traceback about those."""

    def _stop_pool(self) -> None:
        if self._pool_manager_loop is not None:
            self._pool_manager_loop.join()  # it starts no others
        self._pool_manager.worker_manager.force_stop_workers()  # type: ignore[no-untyped-call]
        super()._stop_pool()  # type: ignore[no-untyped-call]


@dataclass
class _Queue(Generic[Item, Result]):
    """The items that were begun, in order, until their results are taken."""

    workers: int
    disk_use: Callable[[Result], int]
    under_way: deque[tuple[Item, ProcessFuture[Result]]] = field(default_factory=deque)
    ended: SimpleQueue[Future[Result]] = field(default_factory=SimpleQueue)  # as they end, in any order
    num_ended: int = 0
    bytes_ended: int = 0

    def __len__(self) -> int:
        return len(self.under_way)

    def room_for(self, waiting: Iterator[Item]) -> Iterator[Item]:
        """Those of the items to come that may be begun now."""
        while len(self.under_way) < self._most():
            try:
                yield next(waiting)
            except StopIteration:
                return

    def _most(self) -> int:
        least, most = _LEAST_AHEAD * self.workers, _AHEAD * self.workers
        with_room = (
            self.workers * _ROOM_A_WORKER * self.num_ended // max(1, self.bytes_ended)
        )  # 0 as long as nothing is known
        return min(max(least, with_room), most)

    def add(self, item: Item, future: ProcessFuture[Result]) -> None:
        """An item that was begun."""
        self.under_way.append((item, future))
        future.add_done_callback(lambda ended: self.ended.put(ended))

    def first_has_ended(self) -> bool:
        return self.under_way[0][1].done()

    def note_ended(self, *, wait: bool) -> None:
        """Count those that have ended; with `wait`, one at least."""
        while wait or not self.ended.empty():
            future = self.ended.get()
            if not future.cancelled() and not future.exception():
                self.bytes_ended += self.disk_use(future.result())
            self.num_ended += 1
            wait = False

    def take_first(self) -> tuple[Item, ProcessFuture[Result]]:
        """The first item and its future, out of the queue."""
        return self.under_way.popleft()


def side_by_side(jobs: Sequence[Callable[[Callable[[Told], None]], None]], *, told: Callable[[Told], None]) -> None:
    """Each of `jobs` in a process that may start others. What a job tells the function that it is given, `told` is told
    here. What a job raises is raised here, and ends the others. Raises MachineError where one is killed.
    """
    context = multiprocessing.get_context("spawn")
    processes, readers = [], dict[Any, Any]()
    try:
        for job in jobs:
            reader, writer = context.Pipe(duplex=False)
            processes.append(context.Process(target=_do_job, args=(job, writer)))
            with _interrupts_held_back():
                processes[-1].start()
            writer.close()
            readers[reader] = processes[-1]
        while readers:
            for ready in connection.wait(list(readers)):
                try:
                    message: Any = ready.recv()  # type: ignore[union-attr,call-arg]  # (typeshed: or a socket)
                except EOFError:
                    _check_ended(readers.pop(ready))
                    continue
                if isinstance(message, Exception):
                    raise message
                told(message)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _do_job(job: Callable[[Callable[[Told], None]], None], to_parent: connection.Connection[Any, Any]) -> None:
    die_with_the_parent()
    try:
        job(to_parent.send)
    except Exception as error:
        if not isinstance(error, UmtError):
            error.add_note("".join(traceback.format_exception(error)))
        to_parent.send(error)


def _check_ended(process: multiprocessing.process.BaseProcess) -> None:
    process.join()
    if process.exitcode:
        raise MachineError(
            f"a process that writes shards ended ({_cause(process.exitcode)})",
            hint="perhaps the machine is out of memory; the same command goes on where this one ended",
        )


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C signals all processes of a terminal. Those that are started in here never see it, for a process inherits
    what its starter blocks: the command alone ends them, and no traceback of theirs is written over its last words."""
    resource_tracker.ensure_running()  # where the first process starts it, it unblocks SIGINT (seen in Python 3.11)
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


_seconds_an_item = 0.0  # in a worker


def take_longer(*, times: int) -> None:
    """For work on what is `times` as large as usual: its seconds begin anew, and are so many times as many."""
    if _seconds_an_item:
        signal.setitimer(signal.ITIMER_REAL, max(1, times) * _seconds_an_item)


def _work_in_time(work: Callable[[Item], Result], item: Item, timeout_s: float) -> Result:
    """Ends this process after `timeout_s`. Pictures of changing sizes leave holes in glibc's heap: a worker grew from
    62 to 150 MB over 1,000 clips, and to 64 MB where the holes are given back after each (1 ms)."""
    global _seconds_an_item
    _seconds_an_item = timeout_s
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
