"""Bad samples: a deterministic substitute, a log line, a count, and an end to patience.

A sample that cannot be decoded costs that sample. What is shown instead depends only on the draw
number and on which samples are bad, so every rank, worker count and resumed run shows the same.
Only DecodeError is taken for a bad sample: I/O errors and our own bugs go through.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from umt_ds.data.order.order import Order
from umt_ds.data.shards.records import SampleRef
from umt_ds.errors import DataError, DecodeError
from umt_ds.keyed import Stream

log = logging.getLogger(__name__)

MAX_SUBSTITUTES = 10  # in a row, for one draw
MIN_BAD = 20  # below this a rate says nothing

T = TypeVar("T")
Ref = TypeVar("Ref")


@dataclass(frozen=True)
class Fault:
    """One bad sample that a draw met."""

    draw: int
    sample: str  # source and key
    reason: str


def candidates(order: Order, *, draw: int, k: int, seed: int, skip_own: bool = False) -> Iterator[SampleRef]:
    """What draw `draw` may show: its own sample, then keyed others from the same window.

    With `skip_own` (the user's data.skip_draws) it begins with the first of the others.
    """
    own = order(k)
    if not skip_own:
        yield own
    window = order.window_of(k)
    for attempt in range(MAX_SUBSTITUTES):
        other = order(window.start + Stream(seed, "substitute", draw, attempt).integer(len(window)))
        if other != own:
            yield other


def first_good(
    refs: Iterable[Ref], read: Callable[[Ref], T], *, draw: int, name: Callable[[Ref], str]
) -> tuple[T, list[Fault]]:
    """The first of `refs` that `read` can read, and what was wrong with those before it.

    Raises DataError where all of them are bad.
    """
    faults: list[Fault] = []
    for ref in refs:
        try:
            return read(ref), faults
        except DecodeError as error:
            faults.append(Fault(draw, name(ref), error.what))
    seen = "\n".join(f"  {fault.sample}: {fault.reason}" for fault in faults[:5])
    raise DataError(
        f"draw {draw}: its sample and {max(len(faults) - 1, 0)} substitutes in a row are bad\n{seen}",
        hint="run `umt-data verify` on the source: whole shards are damaged, or the source is tiny; of a stream, "
        "look at these samples",
    )


class FaultLog:
    """Counts the draws that needed a substitute; stops the run when they become too many.

    Each rank counts what it has been handed since it started.
    """

    def __init__(self, *, max_bad_rate: float) -> None:
        self._max_bad_rate = max_bad_rate
        self._logged: set[str] = set()
        self.draws = 0
        self.substituted = 0

    def add(self, faults: Iterable[Fault], *, draws: int, substituted: int) -> None:
        """Take note of `draws` more draws. Raises DataError when too many of them were substituted."""
        self.draws += draws
        self.substituted += substituted
        for fault in faults:
            if fault.sample not in self._logged:
                self._logged.add(fault.sample)
                log.warning("bad sample %s (draw %d): %s", fault.sample, fault.draw, fault.reason)
        if self.substituted >= MIN_BAD and self.substituted > self._max_bad_rate * self.draws:
            raise DataError(
                f"{self.substituted} of {self.draws} draws met a bad sample, "
                f"more than data.max_bad_rate={self._max_bad_rate}; bad samples so far: {len(self._logged)}",
                hint="run `umt-data verify` on the sources; raise data.max_bad_rate to go on regardless",
            )
