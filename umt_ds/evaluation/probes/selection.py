"""A probe that is trained over a grid: which point is taken, and how good its head is on held-out clips.

A keyed part of the training clips is held back. All points of the grid are trained on the others; the point whose head
names most of the clips that were held back is taken (of equals, the one with the lower cross-entropy), and a new head
is trained with it on all training clips. The held-out set has no say in that choice. What the best head of all says on
the held-out set itself is told beside it: papers without a held-back part report that number, which is too high.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from umt_ds.config.probes import GridPoint, HeadGrid
from umt_ds.errors import DataError
from umt_ds.evaluation.encode import no_beat
from umt_ds.evaluation.evaluator import Beat
from umt_ds.evaluation.probes.training import ASKED_AT_ONCE, Hits, LabelledClips, hits_of, train_heads
from umt_ds.keyed import permutation

MakeHead = Callable[[LabelledClips], nn.Module]
"""A new head, for these training clips."""


@dataclass(frozen=True)
class GridResult:
    """A point of the grid: hits on the training clips that were held back, and on the held-out set."""

    point: GridPoint
    held_back: Hits
    val: Hits


@dataclass(frozen=True)
class Selected:
    """taken: the point whose head counts. val: hits of the head that was trained anew on all training clips. best: the
    hits of the head, of all that were trained, that names most of the held-out set; with its point."""

    taken: GridPoint
    val: Hits
    best: Hits
    best_point: GridPoint
    grid: tuple[GridResult, ...]


def select_and_score(
    make: MakeHead,
    grid: HeadGrid,
    train: LabelledClips,
    val: LabelledClips,
    *,
    held_back: float,
    seed: int,
    device: torch.device,
    beat: Beat = no_beat,
) -> Selected:
    """The whole of it, for one seed, which decides the clips that are held back, the batches and the first weights.

    Raises DataError for fewer than two training clips.
    """
    kept, back = split(len(train), held_back, seed)
    some = train.some(kept)
    heads = [make(some) for _ in grid.points]
    train_heads(heads, grid.points, some, grid, seed=seed, device=device, beat=beat)
    of_back = hits_of(heads, train.some(back), device=device, beat=beat)
    of_val = hits_of(heads, val, device=device, beat=beat)
    results = tuple(GridResult(*each) for each in zip(grid.points, of_back, of_val, strict=True))
    taken = max(results, key=lambda one: (one.held_back.top1, -one.held_back.loss)).point
    head = make(train)
    train_heads([head], [taken], train, grid, seed=seed, device=device, beat=beat)
    (final,) = hits_of([head], val, device=device, beat=beat)
    best, best_point = max([(final, taken), *((one.val, one.point) for one in results)], key=lambda one: one[0].top1)
    return Selected(taken, final, best, best_point, results)


def split(count: int, held_back: float, seed: int) -> tuple[Tensor, Tensor]:
    """Places of training clips: those that are trained on, those that are held back (one or more); i64, ascending."""
    if count < 2:
        raise DataError(f"{count} labelled training clips are too few", hint="name a larger set with --train")
    order = torch.from_numpy(permutation(count, seed, "probe", "held back"))
    back = _held_back(count, held_back)
    return order[back:].sort().values, order[:back].sort().values


def beats_of(grid: HeadGrid, train: int, val: int, held_back: float) -> int:
    """How often `select_and_score` beats."""
    back = _held_back(train, held_back)
    return grid.steps(train - back) + grid.steps(train) + _asks(back) + 2 * _asks(val)


def _held_back(count: int, part: float) -> int:
    """How many of so many clips."""
    return min(count - 1, max(1, round(part * count)))


def _asks(clips: int) -> int:
    return -(-clips // ASKED_AT_ONCE)
