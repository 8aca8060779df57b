"""A function of one tensor, recorded once for each shape as a CUDA graph and then replayed: one launch for hundreds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_WARM_UP = 3  # calls before recording: libraries choose their kernels, tables are made


@dataclass(frozen=True)
class _Recording(Generic[T]):
    """What one shape of input runs: `input` is copied into, `output` is where the results appear."""

    graph: Any
    input: Tensor
    output: T


class Replayed(Generic[T]):
    """`replayed(x)` is `function(x)`, for functions without gradient that do the same work for the same shape.

    The tensors in what it returns are written again by the next call with that shape: use them up before. On other
    devices it only calls.
    """

    def __init__(self, function: Callable[[Tensor], T]) -> None:
        self._function = function
        self._recordings: dict[tuple[torch.Size, torch.dtype], _Recording[T]] = {}

    def __call__(self, x: Tensor) -> T:
        if not x.is_cuda:
            return self._function(x)
        key = x.shape, x.dtype
        if key not in self._recordings:
            self._recordings[key] = self._record(x)
        recording = self._recordings[key]
        recording.input.copy_(x)
        recording.graph.replay()
        return recording.output

    def _record(self, x: Tensor) -> _Recording[T]:
        held = x.clone()
        side = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self._function(held)
        torch.cuda.current_stream(x.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # thread_local: the thread that pins batches goes on allocating meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            output = self._function(held)
        return _Recording(graph, held, output)
