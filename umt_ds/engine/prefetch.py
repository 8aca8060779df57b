"""The next micro-batch with its inputs: the teacher's output, the mask, the pixels on the device.

With `ahead` (engine.ahead) the inputs of the next micro-batch are made on a CUDA stream of their own, while the current
one is trained on. The teacher then uses the arithmetic units that the student leaves idle, and one more set of inputs
is in memory. The numbers are the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from umt_ds.batch import Batch
from umt_ds.engine.protocol import BatchSource, Task
from umt_ds.engine.speed import Stopwatch


@dataclass
class PreparedBatch:
    """A micro-batch and its inputs. made: a CUDA event after which the inputs are complete; only with `ahead`."""

    batch: Batch
    inputs: Any
    made: Any = None


class InputPrefetcher:
    """Each call of `step` gives the micro-batches of one step with their inputs; the first call, those of step `first`.

    Two CUDA streams share the memory of the inputs. Each waits for the other once a micro-batch:

    - Training must not read inputs that are not complete: its stream waits for the event `made`.
    - The side stream must not write new inputs over those that training still reads: `_in_use` holds on to their memory
      until the side stream waits for the event `_released`, which lies behind the last read.
    """

    def __init__(
        self, task: Task, loader: BatchSource, watch: Stopwatch, *, first: int, device: torch.device, ahead: bool
    ) -> None:
        self._task, self._watch, self._device, self._ahead = task, watch, device, ahead
        self._arrivals = (
            (step, finish) for step in itertools.count(first) for finish in watch.timed_data(loader.deliveries(step))
        )
        self._next: PreparedBatch | None = None
        self._stream: Any = None
        self._in_use: PreparedBatch | None = None
        self._released: Any = None
        if ahead and device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._released = torch.cuda.current_stream(device).record_event()  # at first: the teacher is built

    def step(self, accumulation: int) -> Iterator[PreparedBatch]:
        """The micro-batches of one step. The caller queues all its work on one before it asks for the next."""
        for _ in range(accumulation):
            prepared = self._next or self._prepare_next()
            self._next = self._prepare_next() if self._ahead else None
            if self._stream is not None:
                torch.cuda.current_stream(self._device).wait_event(prepared.made)
            yield prepared
            self._release(prepared)

    def _prepare_next(self) -> PreparedBatch:
        step, finish = next(self._arrivals)
        if self._stream is None:
            return self._prepare(finish, step)
        self._stream.wait_event(self._released)
        self._in_use = None
        # the loader finishes pixels in the current stream: it must be the one in which the teacher reads them
        with torch.cuda.stream(self._stream):
            prepared = self._prepare(finish, step)
            prepared.made = self._stream.record_event()
        return prepared

    def _prepare(self, finish: Callable[[], Batch], step: int) -> PreparedBatch:
        with self._watch.preparing():
            batch = finish()
            return PreparedBatch(batch, self._task.prepare(batch, step))

    def _release(self, prepared: PreparedBatch) -> None:
        if self._stream is not None:
            self._in_use = prepared
            self._released = torch.cuda.current_stream(self._device).record_event()
