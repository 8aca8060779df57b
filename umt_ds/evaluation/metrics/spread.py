"""Scores of runs that differ by chance alone, put together: means, spreads, and what one change brought."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from umt_ds.config.key_paths import flatten
from umt_ds.config.run import RunConfig
from umt_ds.config.show import as_tree, config_hash, numbers_of


@dataclass(frozen=True)
class Group:
    """Runs that are one experiment but for the seed. weights: what they began from; numbers: a hash of the rest."""

    weights: str
    numbers: str
    members: tuple[int, ...]  # their places in the list of runs


def groups_of(configs: Sequence[RunConfig], steps: Sequence[int | None] | None = None) -> list[Group]:
    """Runs with equal numbers, seeds left out, equal initial weights, equally long trained and evaluated alike, in the
    order of the first ones. steps: of training, of each run."""
    found: dict[tuple[str, str], list[int]] = {}
    for place, config in enumerate(configs):
        leaves = {name: value for name, value in numbers_of(config).items() if name != "seed"}
        leaves |= flatten({"evaluation": as_tree(config)["evaluation"]})
        leaves["step"] = steps[place] if steps is not None else None
        weights = str(config.init.weights) if config.init.weights is not None else "scratch"
        found.setdefault((weights, config_hash(leaves)), []).append(place)
    return [Group(weights, numbers, tuple(members)) for (weights, numbers), members in found.items()]


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (NaN of one number) of some scores."""

    mean: float
    deviation: float
    count: int

    @staticmethod
    def of(scores: Sequence[float]) -> Spread:
        """At least one score."""
        return Spread(mean(scores), stdev(scores) if len(scores) > 1 else math.nan, len(scores))

    def minus(self, other: Spread) -> tuple[float, float]:
        """The difference of the means and its standard error (of two independent samples)."""
        error = math.sqrt(self.deviation**2 / self.count + other.deviation**2 / other.count)
        return self.mean - other.mean, error


def pairs_of(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Groups that differ by what they began from alone: (with weights, from scratch) where one is from scratch."""
    pairs = []
    for number, one in enumerate(groups):
        for other in groups[number + 1 :]:
            if one.numbers == other.numbers:
                pairs.append((other, one) if one.weights == "scratch" else (one, other))
    return pairs
