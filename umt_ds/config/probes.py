"""Settings of `umt probe`: which probes are trained on frozen features, and over which grid. Torch-free."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Literal, NamedTuple, Self, get_args

ProbeKind = Literal["knn", "linear", "attentive"]
PROBE_KINDS: tuple[ProbeKind, ...] = get_args(ProbeKind)


class GridPoint(NamedTuple):
    """What a head is trained with: AdamW's learning rate, which falls to 0 along a cosine, and weight decay."""

    lr: float
    weight_decay: float


@dataclass(frozen=True)
class HeadGrid:
    """Heads of one kind that see the same batches: one for each pair of learning rate and weight decay.

    min_steps: a small set is shown more often than `epochs` says, until it had so many steps.
    """

    lr: tuple[float, ...]
    weight_decay: tuple[float, ...]
    epochs: int
    min_steps: int
    batch: int

    @property
    def points(self) -> list[GridPoint]:
        """All pairs."""
        return [GridPoint(*pair) for pair in itertools.product(self.lr, self.weight_decay)]

    def steps(self, clips: int) -> int:
        """Optimiser steps on so many training clips."""
        return max(self.min_steps, ceil(self.epochs * clips / self.batch_of(clips)))

    def batch_of(self, clips: int) -> int:
        """Clips of a step: not more than there are."""
        return min(self.batch, clips)

    def changed(
        self,
        *,
        lr: Sequence[float] = (),
        weight_decay: Sequence[float] = (),
        epochs: int | None = None,
        batch: int | None = None,
    ) -> Self:
        """The same with what is given; of epochs that are named exactly so many are trained."""
        told = {"lr": tuple(lr), "weight_decay": tuple(weight_decay), "epochs": epochs, "batch": batch}
        changes = {name: value for name, value in told.items() if value}
        return replace(self, **changes, **({"min_steps": 1} if epochs else {}))  # type: ignore[arg-type]


@dataclass(frozen=True)
class ProbeSettings:
    """What `umt probe` does.

    labels: label fields; empty: those that both sets have. limit: only the first so many clips of each set.
    pool: tokens of so many x so many patches are averaged before they are stored. held_back: the part of the training
    clips by which a point of the grid is chosen. Source of the attentive protocol: METHOD.md, "Probes".
    """

    kinds: tuple[ProbeKind, ...] = PROBE_KINDS
    labels: tuple[str, ...] = ()
    limit: int | None = None
    pool: int = 1
    cache_gb: float = 50.0
    seeds: int = 1
    held_back: float = 0.1
    max_left_out: float = 0.01
    clips_at_once: int = 16  # through the frozen model
    linear: HeadGrid = field(
        default=HeadGrid(
            lr=(1e-2, 3e-3, 1e-3, 3e-4), weight_decay=(0.01, 0.1, 1.0), epochs=50, min_steps=500, batch=256
        )
    )
    # published: lr 5e-3, 3e-3, 1e-3, 3e-4, 1e-4 with weight decay 0.01, 0.1, 0.4, 0.8, in batches of 256
    attentive: HeadGrid = field(
        default=HeadGrid(lr=(1e-3, 3e-4, 1e-4), weight_decay=(0.01, 0.1), epochs=20, min_steps=200, batch=64)
    )

    @property
    def token_pool(self) -> int | None:
        """As tokens are stored; None where no probe asks for tokens."""
        return self.pool if "attentive" in self.kinds else None

    def grid_of(self, kind: ProbeKind) -> HeadGrid | None:
        """The grid of a probe that is trained; None for kNN."""
        match kind:
            case "knn":
                return None
            case "linear":
                return self.linear
            case "attentive":
                return self.attentive
