"""Worker processes that build items ahead of time: the door to torch's DataLoader."""

from __future__ import annotations

import atexit
import itertools
import math
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from umt_ds.errors import MachineError, UmtError

T = TypeVar("T")

_POLL_S = 5  # how soon a dead worker is noticed


class Pipeline(Generic[T]):
    """`take()` gives build(first), build(first + 1), … in this order, whatever the number of workers.

    Worker w builds items w, w + W, w + 2W, …, each whole. `build` must depend on its argument alone.
    """

    def __init__(
        self, build: Callable[[int], T], *, first: int, num_workers: int, prefetch: int, stall_limit_s: float
    ) -> None:
        self._stall_limit_s = stall_limit_s
        child_signal = signal.getsignal(signal.SIGCHLD)
        self._items = _iterate(build, first, num_workers, prefetch)
        # private names, seen in torch 2.14: it offers no other way to its processes
        self._workers: list[BaseProcess] = list(self._items._workers) if num_workers else []
        if threading.current_thread() is threading.main_thread() and child_signal is not None:
            # torch's own handler raises wherever the trainer happens to be; take() notices a death as well
            signal.signal(signal.SIGCHLD, child_signal)
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
            self._items._shutdown_workers()  # torch calls it in __del__, which a traceback can put off
        self._kill()
        self._workers = []

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.join()

    def _next(self) -> T | UmtError:
        """Wait in slices of _POLL_S; after each of them torch looks whether a worker has died."""
        waited_s = 0.0
        while True:
            try:
                item: T | UmtError = next(self._items)
                return item
            except (RuntimeError, OSError, EOFError) as error:
                if not str(error).startswith("DataLoader timed out"):
                    self._raise_if_dead(error)
                    raise
            waited_s += _POLL_S
            if waited_s >= self._stall_limit_s:
                self._kill()
                raise MachineError(
                    f"no batch came from the loader's workers for {waited_s:.0f} s",
                    hint="the disk does not answer, or a video decoder hangs: look with `py-spy dump`",
                )

    def _raise_if_dead(self, error: Exception) -> None:
        """A death shows as many errors (a broken socket, a missing file): ask the processes themselves."""
        if self._workers and wait([worker.sentinel for worker in self._workers], timeout=1):
            raise MachineError(
                f"a loader worker died: {error}",
                hint="usually out of memory, or /dev/shm too small (docker: --shm-size): "
                "fewer data.workers or a smaller batch.micro need less of both",
            ) from error


def _iterate(build: Callable[[int], Any], first: int, num_workers: int, prefetch: int) -> Any:
    """torch's iterator over build(first), build(first + 1), …; it starts its workers at once."""
    loader: DataLoader[Any] = DataLoader(
        _Items(build),
        sampler=itertools.count(first),  # any iterable of indices will do
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=prefetch if num_workers else None,
        timeout=_POLL_S if num_workers else 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        # fork: workers share the parent's memory, need no second import of torch and no picklable arguments
        multiprocessing_context="fork" if num_workers else None,
        generator=torch.Generator(),  # else torch draws from the global generator, and the run's numbers move
    )
    return iter(loader)


class BatchMemory:
    """Where a builder puts its batches: in a worker, memory that the trainer shares, used again and again.

    Fresh shared pages cost a worker as much as resizing does. torch asks a worker for its item n + prefetch when it
    has item n, and for the one after that when the trainer comes for more: with `prefetch + 1` turns, what is written
    over was pinned by then, or copied, which is up to whoever took it.
    """

    def __init__(self, *, turns: int) -> None:
        self._turns = turns
        self._turn = 0
        self._kept: dict[tuple[str, int], torch.UntypedStorage] = {}

    def next_turn(self) -> None:
        """Another item is begun."""
        self._turn = (self._turn + 1) % self._turns

    def __call__(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """An empty u8 tensor for the part `name` of this turn's item."""
        if get_worker_info() is None:
            return torch.empty(shape, dtype=torch.uint8)
        count, place = math.prod(shape), (name, self._turn)
        if place not in self._kept or len(self._kept[place]) < count:
            # the call is the one of torch's default_collate (2.14)
            self._kept[place] = torch.UntypedStorage._new_shared(count, device="cpu")  # type: ignore[no-untyped-call]
        return torch.empty(0, dtype=torch.uint8).set_(self._kept[place])[:count].view(shape)


class _Items(Dataset[Any]):
    """build(number) as a torch data set; an error for the user travels as a value, so torch wraps nothing."""

    def __init__(self, build: Callable[[int], Any]) -> None:
        self._build = build

    def __getitem__(self, number: int) -> Any:
        try:
            return self._build(number)
        except UmtError as error:
            return error.with_traceback(None)


def _start_worker(_: int) -> None:
    """A stop signal goes to the whole process group: the trainer decides, its workers keep serving it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
