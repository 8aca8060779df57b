"""Inputs in the order of their batches, made in time or one ahead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch

from umt_ds.engine.prefetch import InputPrefetcher
from umt_ds.engine.speed import Stopwatch


class Counting:
    """A loader of two micro-batches a step and a task; both note what they are asked for."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def deliveries(self, step: int) -> Iterator[Any]:
        yield from (lambda: f"{step}a", lambda: f"{step}b")

    def prepare(self, batch: Any, step: int) -> str:
        assert batch.startswith(str(step))
        self.done.append(f"prepare {batch}")
        return f"inputs of {batch}"


@pytest.mark.parametrize(
    ("ahead", "order"),
    [
        (False, "prepare 3a, train 3a, prepare 3b, train 3b, prepare 4a, train 4a, prepare 4b, train 4b"),
        (True, "prepare 3a, prepare 3b, train 3a, prepare 4a, train 3b, prepare 4b, train 4a, prepare 5a, train 4b"),
    ],
)
def test_each_batch_comes_with_its_own_inputs(ahead: bool, order: str) -> None:
    both: Any = Counting()
    feed = InputPrefetcher(both, both, Stopwatch(), first=3, device=torch.device("cpu"), ahead=ahead)
    for _ in range(2):
        for fed in feed.step(2):
            assert fed.inputs == f"inputs of {fed.batch}"
            both.done.append(f"train {fed.batch}")
    assert ", ".join(both.done) == order


class Stream:
    """A stream of no real device. `before`: all that is sure to be done before what is queued in it next."""

    def __init__(self) -> None:
        self.before: set[str] = set()

    def record_event(self) -> frozenset[str]:
        return frozenset(self.before)

    def wait_event(self, event: frozenset[str]) -> None:
        self.before |= event


class Device:
    """Work that is queued, in the stream that is current: name → what is sure to be done before it."""

    def __init__(self) -> None:
        self.current = Stream()
        self.work: dict[str, set[str]] = {}

    def do(self, name: str) -> None:
        self.work[name] = set(self.current.before)
        self.current.before.add(name)

    @contextmanager
    def in_stream(self, stream: Stream) -> Iterator[None]:
        self.current, outside = stream, self.current
        yield
        self.current = outside

    # a loader whose pixels are finished on the device, and a task that looks at them

    def deliveries(self, step: int) -> Iterator[Any]:
        yield partial(self._finish, step)

    def _finish(self, step: int) -> int:
        self.do(f"write pixels {step}")
        return step

    def prepare(self, batch: int, step: int) -> int:
        self.do(f"look at pixels {batch}")
        return batch


def test_whoever_reads_pixels_that_the_device_finishes_comes_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    device: Any = Device()
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: Stream())
    monkeypatch.setattr(torch.cuda, "stream", device.in_stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: device.current)
    device.do("place the teacher")
    feed = InputPrefetcher(device, device, Stopwatch(), first=0, device=torch.device("cuda"), ahead=True)
    for _ in range(4):
        for fed in feed.step(1):
            device.do(f"train on pixels {fed.inputs}")
    done_before = device.work
    assert "place the teacher" in done_before["look at pixels 0"]
    for step in range(4):
        assert f"write pixels {step}" in done_before[f"look at pixels {step}"]
        assert f"look at pixels {step}" in done_before[f"train on pixels {step}"]
        beside = done_before[f"look at pixels {step + 1}"]
        assert f"train on pixels {step}" not in beside, "the next look does not wait for this training"
    for step in range(2, 4):  # inputs of two steps before may be written over: training must be past them
        assert f"train on pixels {step - 2}" in done_before[f"write pixels {step}"]
