"""How fast, and where the time went: laps with pauses, spans of a step, peak arithmetic, memory."""

from __future__ import annotations

import re
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

# Dense bf16/fp16 matrix peak in FLOP/s, from NVIDIA's data sheets (SXM parts where there are several)
PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "V100": 125e12,
}


@dataclass(frozen=True)
class Lap:
    """Time since the last lap, pauses left out; `data_s` of it was spent waiting for the loader."""

    seconds: float
    data_s: float
    steps: int


class Stopwatch:
    """Counts steps and seconds between two log lines."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._start = time.perf_counter()
        self._paused_s = 0.0
        self._data_s = 0.0
        self._steps = 0

    def count_step(self) -> None:
        self._steps += 1

    def timed_data(self, batches: Iterable[T]) -> Iterator[T]:
        """Hand the batches through; the time until each arrives counts as waiting for data."""
        iterator = iter(batches)
        while True:
            begin = time.perf_counter()
            try:
                with span("data"):
                    batch = next(iterator)
            except StopIteration:
                return
            finally:
                self._data_s += time.perf_counter() - begin
            yield batch

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside does not count: evaluation, checkpoints."""
        begin = time.perf_counter()
        yield
        self._paused_s += time.perf_counter() - begin

    def lap(self) -> Lap:
        """Time since the last call, and start again."""
        lap = Lap(time.perf_counter() - self._start - self._paused_s, self._data_s, self._steps)
        self._restart()
        return lap


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
        begin = self._now()
        try:
            yield
        finally:
            end = self._now()
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

    def _now(self) -> Any:
        if not self._on_cuda:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


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

    For a CPU, or a GPU that is not in the table: a matrix product timed now (fp32 on a CPU, bf16 on a GPU).
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, flops in PEAK_FLOPS.items():
            if part in name:
                return flops, f"{name}, data sheet"
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
