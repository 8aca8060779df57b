"""Which source a draw comes from, as a pure function of (seed, draw).

Draws are dealt in blocks of M. Each block holds the same whole number of draws of each source, in a
keyed order of its own, so the proportions are exact in every block and the count of earlier draws of a
source needs no walk through the past.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from umt_ds.data.cache import KeepLast
from umt_ds.errors import ConfigError
from umt_ds.keyed import permutation


def block_counts(weights: Sequence[float], block: int) -> list[int]:
    """Whole draws of each source in a block, proportional to `weights`, by largest remainder.

    Raises ConfigError for a weight that is not positive, or so small that it gets no draw at all.
    """
    if not weights or not all(np.isfinite(w) and w > 0 for w in weights):
        raise ConfigError(f"source weights {list(weights)} must be positive numbers")
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * block
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(-(exact - counts), kind="stable")  # ties go to the source named first
    counts[largest[: block - int(counts.sum())]] += 1
    if counts.min() == 0:
        raise ConfigError(
            f"source weights {list(weights)} leave a source without a single draw in {block}",
            hint="raise its weight, or leave the source out",
        )
    return [int(count) for count in counts]


class Mixture:
    """`mixture(draw)` → (source, k): draw number `draw` is the k-th draw of source `source`."""

    def __init__(self, weights: Sequence[float], *, seed: int, block: int = 4096) -> None:
        self.counts = block_counts(weights, block)
        self._block = block
        self._seed = seed
        self._sorted = np.repeat(np.arange(len(self.counts)), self.counts)  # [M] one source after the other
        self._ranks = np.concatenate([np.arange(count) for count in self.counts])  # [M]
        self._blocks = KeepLast(self._deal, size=2)

    def __call__(self, draw: int) -> tuple[int, int]:
        number, place = divmod(draw, self._block)
        sources, ranks = self._blocks(number)
        source = int(sources[place])
        return source, number * self.counts[source] + int(ranks[place])

    def _deal(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Source of each place in block `number`, and how often it came earlier in the block: [M] each."""
        sources = self._sorted[permutation(self._block, self._seed, "mixture", number)]
        ranks = np.empty_like(self._ranks)
        ranks[np.argsort(sources, kind="stable")] = self._ranks
        return sources, ranks
