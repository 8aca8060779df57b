"""What all ranks learn of a step, in one small all-reduce whose result the host reads a step late.

The device works on step s while the host prepares step s+1. Each rank puts its numbers of step s (losses, gradient
norm, digests, whether it was asked to stop) into one tensor on the device. An all-reduce adds the tensors of all ranks,
and the sum is copied to the host. The host reads it after it has handed step s+1 to the device, so the device never
waits for the host, and every rank decides on the same numbers.
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

# A 64-bit digest travels as four numbers of 16 bits: fp64 adds whole numbers exactly up to 2^53, which 2^37 ranks reach
_LIMBS, _LIMB_BITS = 4, 16


@dataclass(frozen=True)
class LocalStepStats:
    """The numbers of one rank for one step. Tensors stay on the device."""

    step: int  # steps done, this one included
    losses: Mapping[str, Tensor]  # f32 scalars of this rank, the same names on all ranks
    grad_norm: Tensor  # f32 scalar of the whole gradient
    skipped: Tensor  # f32 scalar, 1 where the step changed nothing
    mask_digest: Tensor  # i64 scalar
    digest: int  # 64 bits
    substituted: int  # draws that showed a substitute
    wants_stop: bool
    wrote_snapshot: bool  # this rank's part of the snapshot under way is on the disk
    lap: Lap | None = None  # only for a step that is logged: the time since the last logged one


@dataclass(frozen=True)
class RankTimes:
    """Two times for each rank since the last logged step: how long its device waited for data, and how long it worked
    by itself before it met the others (`speed.Lap`). All ranks end a step together, so a slow node shows only here."""

    data_s: tuple[float, ...]
    own_s: tuple[float, ...]

    @property
    def data_rank(self) -> int:
        """The rank that waited longest for data."""
        return self.data_s.index(max(self.data_s))

    @property
    def slowest_rank(self) -> int:
        """The rank for which the others waited."""
        return self.own_s.index(max(self.own_s))

    @property
    def behind_s(self) -> float:
        """Seconds by which it came after the median rank."""
        return max(self.own_s) - median(self.own_s)


@dataclass(frozen=True)
class GlobalStepStats:
    """The numbers of all ranks together for one step: the same on every rank."""

    step: int
    losses: dict[str, float]  # means over the ranks
    grad_norm: float
    skipped: bool
    digest: int
    mask_digest: int
    substituted: int
    wants_stop: bool  # at least one rank was asked to stop
    wrote_snapshot: bool  # all ranks have written their part
    times: RankTimes | None  # only for a step that is logged


@dataclass
class _InFlight:
    """An all-reduce under way. numbers: f64 on the host, valid after `ready` was waited for."""

    step: int
    names: list[str]
    numbers: Tensor
    ready: Any


class StepStatsReducer:
    """Call `submit` after each step, then `collect`. Every rank calls both for every step."""

    def __init__(self, world: World, device: torch.device) -> None:
        self._world, self._device = world, device
        self._in_flight: list[_InFlight] = []

    def submit(self, stats: LocalStepStats) -> None:
        """Start the all-reduce of this rank's numbers, and return at once."""
        names = sorted(stats.losses)
        losses = [stats.losses[name] for name in names]
        on_device = [*losses, stats.grad_norm, stats.skipped, *_limbs_of(stats.mask_digest)]
        # a sum that keeps each rank's times apart: rank r fills slots r and size + r, the other ranks add 0 there
        times = [0.0] * (2 * self._world.size)
        own = (math.nan, math.nan) if stats.lap is None else (stats.lap.data_s, stats.lap.own_s)
        times[self._world.rank :: self._world.size] = own
        flags = [float(stats.wants_stop), float(stats.wrote_snapshot), float(stats.substituted)]
        of_host = torch.tensor([*_limbs(stats.digest), *flags, *times], dtype=torch.float64)
        if self._device.type == "cuda":
            of_host = of_host.pin_memory().to(self._device, non_blocking=True)
        numbers = torch.cat([torch.stack([number.detach().double() for number in on_device]), of_host])
        work = dist.all_reduce(numbers, async_op=True) if active() else None
        self._in_flight.append(self._fetch(stats.step, names, numbers, work))

    def collect(self, *, now: bool) -> list[GlobalStepStats]:
        """The steps that were submitted and not collected yet, without the last one. now: with the last one, for which
        the host waits."""
        count = len(self._in_flight) if now else max(0, len(self._in_flight) - 1)
        arrived, self._in_flight = self._in_flight[:count], self._in_flight[count:]
        return [self._read(one) for one in arrived]

    def _fetch(self, step: int, names: list[str], numbers: Tensor, work: Any) -> _InFlight:
        if self._device.type != "cuda":
            return _InFlight(step, names, numbers, work)
        if work is not None:
            work.wait()  # makes the stream wait, not the host
        host = torch.empty_like(numbers, device="cpu", pin_memory=True)
        host.copy_(numbers, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        return _InFlight(step, names, host, copied)

    def _read(self, one: _InFlight) -> GlobalStepStats:
        if one.ready is not None:
            one.ready.synchronize() if self._device.type == "cuda" else one.ready.wait()
        values = one.numbers.tolist()
        size, losses = self._world.size, len(one.names)
        grad_norm, skipped, *rest = values[losses:]
        mask_digest, digest, (stops, wrote, substituted), times = (
            rest[:_LIMBS], rest[_LIMBS : 2 * _LIMBS], rest[2 * _LIMBS : 2 * _LIMBS + 3], rest[2 * _LIMBS + 3 :]
        )  # fmt: skip
        return GlobalStepStats(
            step=one.step,
            losses={name: value / size for name, value in zip(one.names, values, strict=False)},
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
    """Digests added mod 2^64, from the sums of their limbs."""
    return sum(round(limb) << _LIMB_BITS * place for place, limb in enumerate(sums)) & 0xFFFF_FFFF_FFFF_FFFF
