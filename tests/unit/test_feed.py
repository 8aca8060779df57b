"""Inputs in the order of their batches, made in time or one ahead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from umt_ds.engine.feed import Feed
from umt_ds.engine.speed import Stopwatch


class Counting:
    """A loader of two micro-batches a step and a task; both note what they are asked for."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def micro_batches(self, step: int) -> Iterator[Any]:
        yield from (f"{step}a", f"{step}b")

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
    feed = Feed(both, both, Stopwatch(), first=3, device=torch.device("cpu"), ahead=ahead)
    for _ in range(2):
        for fed in feed.step(2):
            assert fed.inputs == f"inputs of {fed.batch}"
            both.done.append(f"train {fed.batch}")
    assert ", ".join(both.done) == order
