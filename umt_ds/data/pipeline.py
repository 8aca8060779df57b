"""Worker processes that build items ahead of time: the door to torch's DataLoader."""

from __future__ import annotations

import atexit
import itertools
import logging
import math
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from umt_ds.data.shards.back_off import is_waiting
from umt_ds.distributed.leftovers import note_shared_memory, own_folder
from umt_ds.distributed.parent import die_with_the_parent
from umt_ds.errors import EXIT_FAILED, MachineError, UmtError
from umt_ds.refused import refused_by_machine

log = logging.getLogger(__name__)
T = TypeVar("T")

_POLL_S = 5  # how soon a dead worker is noticed
_LEAVE_S = 5  # for workers to leave by themselves; one that loops or waits inside its source does not


class WorkerPool(Generic[T]):
    """`take()` gives build(first), build(first + 1), … in this order, whatever the number of workers.

    Worker w builds items w, w + W, w + 2W, …, each whole. `build` must depend on its argument alone.
    """

    def __init__(
        self, build: Callable[[int], T], *, first: int, num_workers: int, prefetch: int, stall_limit_s: float
    ) -> None:
        self._stall_limit_s = stall_limit_s
        with _starting():
            self._items = _iterate(build, first, num_workers, prefetch)
        # private names, seen in torch 2.14: it offers no other way to its processes
        self._workers: list[BaseProcess] = list(self._items._workers) if num_workers else []
        # before multiprocessing's own exit handler, which would wait for ever for workers that ignore SIGTERM
        atexit.register(self.close)

    def take(self) -> T:
        """The next item. Raises what `build` raised, and MachineError where workers died or stand still."""
        item = self._next()
        if isinstance(item, UmtError):
            raise item
        return item

    def close(self) -> None:
        """End the workers. Calling it again does nothing."""
        atexit.unregister(self.close)
        if self._workers:
            patience = threading.Timer(_LEAVE_S, _kill, (self._workers,))
            try:
                patience.start()
            except RuntimeError:  # no more threads: then nobody would end a worker that does not leave
                _kill(self._workers)
            self._items._shutdown_workers()  # torch calls it in __del__, which a traceback can put off
            patience.cancel()
        _kill(self._workers)
        self._workers = []

    def _next(self) -> T | UmtError:
        """Wait in slices of _POLL_S; after each of them torch looks whether a worker has died."""
        waited_s = 0.0
        while True:
            try:
                item = next(self._items)
                found: T | UmtError = item.unpacked() if isinstance(item, _Parcel) else item
                return found
            except (RuntimeError, OSError, EOFError, MemoryError, pickle.UnpicklingError) as error:
                if not str(error).startswith("DataLoader timed out"):
                    self._raise_if_dead(error)
                    raise _not_handed_over(error) from error
            waited_s += 0 if is_waiting() else _POLL_S  # for a store they wait as long as that takes (`back_off`)
            if waited_s >= self._stall_limit_s:
                _kill(self._workers)
                raise MachineError(
                    f"no batch came from the loader's workers for {waited_s:.0f} s",
                    hint="the disk does not answer, or a video decoder hangs: look with `py-spy dump`",
                )

    def _raise_if_dead(self, error: Exception) -> None:
        """A death shows as many errors (a broken socket, a missing file): ask the processes themselves."""
        if ended := wait([worker.sentinel for worker in self._workers], timeout=1):
            dead = [worker for worker in self._workers if worker.sentinel in ended]
            if told := next(filter(None, map(_last_words, dead)), None):
                raise told from error
            dead[0].join(timeout=1)  # its files are closed, and that shows, a moment before it has an exit code
            raise _death(f"{_how_it_ended(dead[0])} ({error})") from error


def _not_handed_over(error: Exception) -> Exception:
    """What stands between workers that live and the trainer: a MachineError, or `error` where that is a bug."""
    told = refused_by_machine(error, doing="the loader cannot take a batch from its workers")
    if told is None and isinstance(error, (EOFError, ConnectionError)):  # the worker has said why
        return MachineError(
            f"a loader worker cannot hand over a batch: {type(error).__name__}",
            hint="its own message stands above; most likely it may not open more files: raise `ulimit -n`",
        )
    return told or error


def _death(how: str) -> MachineError:
    return MachineError(
        f"a loader worker died: {how}",
        hint="usually out of memory, or /dev/shm too small (docker: --shm-size): "
        "fewer data.workers or a smaller batch.micro need less of both; SIGBUS: /dev/shm, or the index.arrow of a set "
        "was cut while the run had it mapped",
    )


def _how_it_ended(worker: BaseProcess) -> str:
    code = worker.exitcode or 0
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _kill(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()
        worker.join()


@contextmanager
def _starting() -> Iterator[None]:
    """Around the start of workers: what goes wrong is one error, and ends those that have started."""
    before = set(multiprocessing.active_children())
    # private, seen in torch 2.14: it takes its handler of SIGCHLD for set, and sets none. That would raise wherever the
    # trainer, or torch itself, happens to be when a worker dies; take() notices a death as well
    signal_handling._SIGCHLD_handler_set = True
    try:
        yield
    except (RuntimeError, OSError, MemoryError) as error:
        started = set(multiprocessing.active_children()) - before
        _kill(started)
        doing = f"the loader could start {len(started)} worker processes and no more"
        raise refused_by_machine(error, doing=doing) or error from error


def _iterate(build: Callable[[int], Any], first: int, num_workers: int, prefetch: int) -> Any:
    """torch's iterator over build(first), build(first + 1), …; it starts its workers at once."""
    if num_workers:
        own_folder()  # the workers' sockets lie there, and go with it
    # of the end of another thread the kernel would tell them, too; there torch looks every five seconds, between items
    is_main = threading.current_thread() is threading.main_thread()
    loader: DataLoader[Any] = DataLoader(
        _Items(build),
        sampler=itertools.count(first),  # any iterable of indices will do
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=prefetch if num_workers else None,
        timeout=_POLL_S if num_workers else 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker if is_main else _ignore_stop_signals,
        multiprocessing_context=_Fork() if num_workers else None,
        generator=torch.Generator(),  # else torch draws from the global generator, and the run's numbers move
    )
    return _Workers(loader) if num_workers else iter(loader)


class _Workers(_MultiProcessingDataLoaderIter):
    """torch's iterator over worker processes, which `WorkerPool.close` ends."""

    def __del__(self) -> None:
        """Nothing: torch's own prints a traceback where not all workers could be started."""


class _Worker(ForkProcess):
    """A loader worker."""

    def run(self) -> None:
        """Serve the trainer, and tell it what the machine refuses; multiprocessing would print a traceback."""
        try:
            super().run()
        except (RuntimeError, OSError, MemoryError) as error:
            told = refused_by_machine(error, doing="a loader worker cannot go on")
            if told is None:
                raise
            _end_with(told)


class _Flag:
    """An Event of processes that are forked, without a lock. multiprocessing's has one, which a worker that is killed
    while it asks holds for ever, and then the trainer that ends its workers waits for it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def is_set(self) -> bool:
        return self._memory[0] == 1

    def set(self) -> None:
        self._memory[0] = 1


class _Fork(ForkContext):
    """fork: workers share the parent's memory, need no second import of torch and no picklable arguments."""

    Process = _Worker

    def Event(self) -> Any:  # noqa: N802  (by which torch tells workers to leave)
        return _Flag()


def _end_with(told: MachineError) -> NoReturn:
    """The last words of a worker, which has no other way left to its trainer."""
    try:
        _words_of(os.getpid()).write_text(f"{told.what}\n{told.hint}")
    except OSError:
        log.error("error: %s", told)
    os._exit(EXIT_FAILED)


def _last_words(worker: BaseProcess) -> MachineError | None:
    try:
        what, _, hint = _words_of(worker.pid).read_text().partition("\n")
    except OSError:
        return None
    return MachineError(what, hint=hint)


def _words_of(worker: int | None) -> Path:
    return own_folder() / f"words-{worker}"


class BatchMemory:
    """Memory for the batches of a worker, shared with the trainer. It is reused: fresh pages cost as much as resizing.

    Why `turns = prefetch + 1` is enough, for a prefetch of 2: batches 0, 1, 2, 3, … lie in buffers 0, 1, 2, 0, …. torch
    asks a worker for its batch n + 2 when the trainer takes batch n. So batch 3, which overwrites batch 0, is asked for
    when the trainer takes batch 1. Until then batch 0 must be pinned or copied: the trainer sees to that.
    """

    def __init__(self, *, turns: int) -> None:
        self._turns = turns
        self._turn = 0
        self._kept: dict[tuple[str, int], torch.UntypedStorage] = {}

    def next_turn(self) -> None:
        """Another item is begun."""
        self._turn = (self._turn + 1) % self._turns

    def __call__(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """An empty u8 tensor for the part `name` (pixels of images, of clips, …) of the item at hand."""
        if get_worker_info() is None:
            return torch.empty(shape, dtype=torch.uint8)
        count, key = math.prod(shape), (name, self._turn)
        if key not in self._kept or len(self._kept[key]) < count:
            # the call is the one of torch's default_collate (2.14)
            self._kept[key] = torch.UntypedStorage._new_shared(count, device="cpu")  # type: ignore[no-untyped-call]
        return torch.empty(0, dtype=torch.uint8).set_(self._kept[key])[:count].view(shape)


class _Items(Dataset[Any]):
    """build(number) as a torch data set; an error for the user travels as a value, so torch wraps nothing."""

    def __init__(self, build: Callable[[int], Any]) -> None:
        self._build = build

    def __getitem__(self, number: int) -> Any:
        try:
            item = self._build(number)
            return item if get_worker_info() is None else _Parcel(bytes(ForkingPickler.dumps(item)))
        except UmtError as error:
            return error.with_traceback(None)
        except (RuntimeError, OSError, MemoryError) as error:
            told = refused_by_machine(error, doing="a loader worker cannot make a batch")
            if told is None:
                raise
            return told


@dataclass(frozen=True)
class _Parcel:
    """An item on its way out of a worker, its memory shared and its tensors pickled as handles to it.

    Left to torch, that happens in the queue's own thread: what fails there is printed and lost, and the trainer waits.
    """

    content: bytes

    def unpacked(self) -> Any:
        return pickle.loads(self.content)  # our own worker's

    def pin_memory(self) -> Any:
        """Called by torch's DataLoader where there is a CUDA device, in a thread of its own."""
        item = self.unpacked()
        return item.pin_memory() if hasattr(item, "pin_memory") else item


def _ignore_stop_signals(_: int) -> None:
    """A stop signal goes to the whole process group: the trainer decides, its workers keep serving it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _start_worker(number: int) -> None:
    """Serve the trainer whatever signals come, and end with it."""
    _ignore_stop_signals(number)
    die_with_the_parent()
    sys.excepthook = _say_refusal  # for the thread that hands over shared memory
    try:
        note_shared_memory()
        threading.Thread(target=int).start()  # the way out of a worker needs threads: without them it can tell nothing
    except (RuntimeError, OSError) as error:
        _end_with(refused_by_machine(error, doing="a loader worker cannot start") or MachineError(str(error)))


def _say_refusal(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, (ConnectionError, EOFError)):  # the trainer is gone, and so are we in a moment
        return
    told = refused_by_machine(error, doing="a loader worker cannot hand over a batch")
    if told is None:
        sys.__excepthook__(kind, error, trace)
    else:
        log.error("error: %s", told)
