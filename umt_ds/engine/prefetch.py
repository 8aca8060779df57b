"""Batches with their inputs made, in order: where the teacher's work meets the student's.

`ahead` makes the inputs of the next micro-batch on a stream of their own while the current one is trained on: the
teacher fills what the student leaves idle, for the memory of one more set of inputs. The numbers are the same.
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
    """A micro-batch and its inputs; `made` is when the device has them (CUDA, ahead)."""

    batch: Batch
    inputs: Any
    made: Any = None


class InputPrefetcher:
    """Each call of `step` gives the micro-batches of the next step with their inputs, from step `first` on."""

    def __init__(
        self, task: Task, loader: BatchSource, watch: Stopwatch, *, first: int, device: torch.device, ahead: bool
    ) -> None:
        self._task, self._watch, self._device, self._ahead = task, watch, device, ahead
        self._arrivals = (
            (step, finish) for step in itertools.count(first) for finish in watch.timed_data(loader.deliveries(step))
        )
        self._next: PreparedBatch | None = None
        self._stream: Any = None
        # inputs in use: their memory belongs to the side stream, which may take it again once training is past them
        self._used: PreparedBatch | None = None
        self._past_used: Any = None  # at first: past what made the teacher
        if ahead and device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._past_used = torch.cuda.current_stream(device).record_event()

    def step(self, accumulation: int) -> Iterator[PreparedBatch]:
        """The micro-batches of one step. The caller has queued all work on one before it asks for the next."""
        for _ in range(accumulation):
            fed = self._next or self._make()
            self._next = self._make() if self._ahead else None
            if self._stream is not None:
                torch.cuda.current_stream(self._device).wait_event(fed.made)
            yield fed
            self._release(fed)

    def _make(self) -> PreparedBatch:
        step, finish = next(self._arrivals)
        if self._stream is None:
            return self._prepared(finish, step)
        self._stream.wait_event(self._past_used)
        self._used = None
        # the pixels are finished in the stream that reads them first; in another one they might still be written
        with torch.cuda.stream(self._stream):
            fed = self._prepared(finish, step)
            fed.made = self._stream.record_event()
        return fed

    def _prepared(self, finish: Callable[[], Batch], step: int) -> PreparedBatch:
        with self._watch.preparing():
            batch = finish()
            return PreparedBatch(batch, self._task.prepare(batch, step))

    def _release(self, fed: PreparedBatch) -> None:
        if self._stream is not None:
            self._used = fed
            self._past_used = torch.cuda.current_stream(self._device).record_event()
