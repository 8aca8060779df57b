"""What all ranks learn of a step, in one small all-reduce that is read a step late.

While the device works on step s the host already prepares step s+1. What it wants to know of step s (losses, gradient
norm, digests, whether somebody wishes to stop) is summed over the ranks on the device, copied, and read when step s+1
has been handed over. So no step waits for the host, and every rank decides on the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from umt_ds.distributed.collectives import active
from umt_ds.distributed.world import World
from umt_ds.engine.speed import Lap

_LIMBS, _LIMB_BITS = 4, 16  # a 64-bit word as whole numbers whose sum over any number of ranks is exact in fp64


@dataclass(frozen=True)
class LocalStepStats:
    """What one rank knows of a step that ended on it. Tensors stay on the device."""

    step: int  # steps ended, this one included
    losses: Mapping[str, Tensor]  # f32 scalars of this rank, the same names on all ranks
    grad_norm: Tensor  # f32 scalar of the whole gradient
    skipped: Tensor  # f32 scalar, 1 where the step changed nothing
    mask_digest: Tensor  # i64 scalar
    digest: int  # 64 bits
    substituted: int  # draws that showed a substitute
    wants_stop: bool
    wrote_snapshot: bool  # the snapshot that is on its way is on this rank's disk
    lap: Lap | None = None  # of a step that is logged: what this rank did since the last one


@dataclass(frozen=True)
class RankTimes:
    """Of the ranks, for each since the last logged step: how long its device waited for data, and what it did before
    it met the others (`speed.Lap`). The ranks end a step together, so this is where a slow node shows."""

    data_s: tuple[float, ...]
    own_s: tuple[float, ...]

    @property
    def data_rank(self) -> int:
        """The rank that waited longest for data."""
        return self.data_s.index(max(self.data_s))

    @property
    def slowest_rank(self) -> int:
        """The rank that was last where the ranks meet."""
        return self.own_s.index(max(self.own_s))

    @property
    def behind_s(self) -> float:
        """By how much it came after the median rank."""
        return max(self.own_s) - median(self.own_s)


@dataclass(frozen=True)
class GlobalStepStats:
    """The same of all ranks together."""

    step: int
    losses: dict[str, float]  # means over the ranks
    grad_norm: float
    skipped: bool
    digest: int
    mask_digest: int
    substituted: int
    wants_stop: bool  # one rank at least
    wrote_snapshot: bool  # all ranks
    times: RankTimes | None  # of a step that is logged


@dataclass
class _Sent:
    """A sum on its way: `numbers` f64 on the host, valid once `ready` has been waited for."""

    step: int
    names: list[str]
    numbers: Tensor
    ready: Any


class StepStatsReducer:
    """`say` after each step, then `hear`. Every rank calls both, always."""

    def __init__(self, world: World, device: torch.device) -> None:
        self._world, self._device = world, device
        self._sent: list[_Sent] = []

    def submit(self, said: LocalStepStats) -> None:
        """Start to add this rank's numbers to those of the others; nobody waits."""
        names = sorted(said.losses)
        on_device = [said.losses[name] for name in names] + [said.grad_norm, said.skipped, *_limbs_of(said.mask_digest)]
        # each rank's own numbers out of a sum: it has places of its own
        times = [0.0] * (2 * self._world.size)
        own = (math.nan, math.nan) if said.lap is None else (said.lap.data_s, said.lap.own_s)
        times[self._world.rank :: self._world.size] = own
        flags = [float(said.wants_stop), float(said.wrote_snapshot), float(said.substituted)]
        of_host = torch.tensor([*_limbs(said.digest), *flags, *times], dtype=torch.float64)
        if self._device.type == "cuda":
            of_host = of_host.pin_memory().to(self._device, non_blocking=True)
        numbers = torch.cat([torch.stack([number.detach().double() for number in on_device]), of_host])
        work = dist.all_reduce(numbers, async_op=True) if active() else None
        self._sent.append(self._fetch(said.step, names, numbers, work))

    def collect(self, *, now: bool) -> list[GlobalStepStats]:
        """Steps said before and not heard yet, but for the last one; with `now` that one too, which waits for it."""
        count = len(self._sent) if now else max(0, len(self._sent) - 1)
        arrived, self._sent = self._sent[:count], self._sent[count:]
        return [self._read(sent) for sent in arrived]

    def _fetch(self, step: int, names: list[str], numbers: Tensor, work: Any) -> _Sent:
        if self._device.type != "cuda":
            return _Sent(step, names, numbers, work)
        if work is not None:
            work.wait()  # the stream waits, not the host
        host = torch.empty_like(numbers, device="cpu", pin_memory=True)
        host.copy_(numbers, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        return _Sent(step, names, host, copied)

    def _read(self, sent: _Sent) -> GlobalStepStats:
        if sent.ready is not None:
            sent.ready.synchronize() if self._device.type == "cuda" else sent.ready.wait()
        values = sent.numbers.tolist()
        size, losses = self._world.size, len(sent.names)
        grad_norm, skipped, *rest = values[losses:]
        mask_digest, digest, (stops, wrote, substituted), times = (
            rest[:_LIMBS], rest[_LIMBS : 2 * _LIMBS], rest[2 * _LIMBS : 2 * _LIMBS + 3], rest[2 * _LIMBS + 3 :]
        )  # fmt: skip
        return GlobalStepStats(
            step=sent.step,
            losses={name: value / size for name, value in zip(sent.names, values, strict=False)},
            grad_norm=grad_norm / size,
            skipped=skipped > 0,
            digest=_word(digest),
            mask_digest=_word(mask_digest),
            substituted=round(substituted),
            wants_stop=stops > 0,
            wrote_snapshot=round(wrote) == size,
            times=None if any(map(math.isnan, times)) else RankTimes(tuple(times[:size]), tuple(times[size:])),
        )


def _limbs(word: int) -> list[int]:
    """A 64-bit word, low bits first."""
    return [word >> _LIMB_BITS * place & 0xFFFF for place in range(_LIMBS)]


def _limbs_of(word: Tensor) -> list[Tensor]:
    return [word >> _LIMB_BITS * place & 0xFFFF for place in range(_LIMBS)]


def _word(sums: list[float]) -> int:
    """The sum of words, mod 2^64, of the sums of their limbs."""
    return sum(round(limb) << _LIMB_BITS * place for place, limb in enumerate(sums)) & 0xFFFF_FFFF_FFFF_FFFF
