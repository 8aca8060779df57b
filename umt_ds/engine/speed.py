"""How fast, and where the time went: laps with pauses, peak arithmetic, memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

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
