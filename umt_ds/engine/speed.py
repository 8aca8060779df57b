"""How fast, and where the time went: laps with pauses, spans of a step, peak arithmetic, memory."""

from __future__ import annotations

import re
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from umt_ds.engine.gpus import gpu_called

T = TypeVar("T")

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Lap:
    """Time since the last lap, pauses left out. In `data_s` of it the device had nothing to do but wait for the loader;
    `own_s` is what this rank did by itself before it met the others: waiting for data, and preparing inputs."""

    seconds: float
    data_s: float
    own_s: float
    steps: int


class Stopwatch:
    """Counts steps and seconds between two log lines."""

    def __init__(self, device: torch.device = _CPU) -> None:
        self._data, self._preparing = DeviceTimer(device), DeviceTimer(device)
        self._restart()

    def _restart(self) -> None:
        self._start = time.perf_counter()
        self._paused_s = 0.0
        self._steps = 0

    def count_step(self) -> None:
        self._steps += 1

    def timed_data(self, batches: Iterable[T]) -> Iterator[T]:
        """Hand on what the loader gives; the time in which a device stands still for it counts as waiting for data."""
        iterator = iter(batches)
        while True:
            try:
                with span("data"), self._data.running():
                    batch = next(iterator)
            except StopIteration:
                return
            yield batch

    def preparing(self) -> AbstractContextManager[None]:
        """What is inside makes the inputs of a batch, without the other ranks."""
        return self._preparing.running()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside does not count: evaluation, checkpoints."""
        begin = time.perf_counter()
        yield
        self._paused_s += time.perf_counter() - begin

    def lap(self) -> Lap:
        """Time since the last call, and start again."""
        data_s = self._data.take()
        own_s = data_s + self._preparing.take()
        lap = Lap(time.perf_counter() - self._start - self._paused_s, data_s, own_s, self._steps)
        self._restart()
        return lap


class DeviceTimer:
    """Adds up the time that passes on a device between the begin and the end of some stretches of code.

    A host that runs ahead of a CUDA device may wait for a batch while the device still works, and nothing is lost. So
    begin and end are marks in the device's stream: between two with no work in between lies the time in which it stood
    still. Nobody waits for the answer: what the device has not reached yet counts in the next lap.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._stretches: list[tuple[Any, Any]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """One stretch; also one that ends with an error."""
        begin = _mark(self._on_cuda)
        try:
            yield
        finally:
            self._stretches.append((begin, _mark(self._on_cuda)))

    def take(self) -> float:
        """Seconds of the stretches that ended since the last call."""
        # marks are reached in their order; the device goes on while it is asked, so the first that is not ends it
        ended = list(takewhile(lambda pair: not self._on_cuda or pair[1].query(), self._stretches))
        self._stretches = self._stretches[len(ended) :]
        seconds: float = sum(begin.elapsed_time(end) / 1e3 if self._on_cuda else end - begin for begin, end in ended)
        return seconds


def _mark(on_cuda: bool) -> Any:
    """Now: on the clock of the host, or in the current stream of the device."""
    if not on_cuda:
        return time.perf_counter()
    event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


# ---------------------------------------------------------------- spans


class Recorder:
    """While active, adds up how long each `span` took, less the spans inside it, and waits for other ranks.

    On a CUDA device a span is the time between two events on its stream: nothing waits while it is recorded.
    A span on another stream than the one around it runs beside that, and is left out.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._open: list[tuple[str, Any]] = []  # name and stream
        self._done: list[tuple[str, str | None, Any, Any]] = []  # name, name of the span around it, begin, end

    @contextmanager
    def active(self) -> Iterator[None]:
        """Record what is inside."""
        global _recorder
        assert _recorder is None, "one recorder at a time"
        _recorder = self
        try:
            with _spans_around_collectives():
                yield
        finally:
            _recorder = None

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """One span."""
        stream = torch.cuda.current_stream() if self._on_cuda else None
        around = self._open[-1] if self._open else (None, stream)
        self._open.append((name, stream))
        begin = _mark(self._on_cuda)
        try:
            yield
        finally:
            end = _mark(self._on_cuda)
            self._open.pop()
            if around[1] == stream:
                self._done.append((name, around[0], begin, end))

    def seconds(self) -> dict[str, float]:
        """The sum over all spans of a name so far."""
        if self._on_cuda:
            torch.cuda.synchronize()
        total: dict[str, float] = defaultdict(float)
        for name, around, begin, end in self._done:
            elapsed = begin.elapsed_time(end) / 1e3 if self._on_cuda else end - begin
            total[name] += elapsed
            if around is not None:
                total[around] -= elapsed
        return dict(total)


_recorder: Recorder | None = None


@contextmanager
def span(name: str) -> Iterator[None]:
    """Name a part of the step, for `umt bench step` and a profiler's trace. Nothing happens while nobody records."""
    if _recorder is None:
        yield
        return
    with torch.profiler.record_function(name), _recorder.measure(name):
        yield


_COLLECTIVE = re.compile("_?(all|reduce|broadcast|gather|scatter|barrier|send|recv)")


@contextmanager
def _spans_around_collectives() -> Iterator[None]:
    """Each call of a process group, and each wait for one, becomes a span `communication`; none where a rank is alone.

    On the classes that all calls end in: DeepSpeed keeps some of torch's functions, and calls them by no name.
    Sync NCCL calls run on the current stream, others are waited for later: both are seen. (torch 2.14)
    """
    with ExitStack() as undo:
        if dist.is_initialized() and dist.get_world_size() > 1:
            calls = [(dist.ProcessGroup, name) for name in vars(dist.ProcessGroup) if _COLLECTIVE.match(name)]
            for owner, name in [*calls, (dist.Work, "wait")]:
                original = vars(owner)[name]  # not getattr: the descriptor is what must come back
                setattr(owner, name, _in_span(original))
                undo.callback(setattr, owner, name, original)
        yield


def _in_span(method: Any) -> Callable[..., Any]:
    def timed(self: Any, *arguments: Any, **named: Any) -> Any:
        with span("communication"):
            return method.__get__(self)(*arguments, **named)

    return timed


# ---------------------------------------------------------------- machine


def peak_flops(device: torch.device) -> tuple[float, str]:
    """Peak matrix arithmetic of one device in FLOP/s, and where the number comes from.

    For a CPU, or a GPU of which we have no data sheet: a matrix product timed now (fp32 on a CPU, bf16 on a GPU).
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        found = gpu_called(name)
        if found is not None:
            return found.half_flops, f"{name}, data sheet"
    return _measured_matmul(device), "measured matrix product"


def _measured_matmul(device: torch.device) -> float:
    size, dtype = (768, torch.float32) if device.type == "cpu" else (4096, torch.bfloat16)
    a = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(4):
        begin = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def peak_memory_gib(device: torch.device) -> float:
    """Most memory this rank has used: allocated on the GPU, or resident on the CPU. GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
