"""Which source a draw comes from, as a pure function of (seed, draw).

Draws are dealt in blocks of M: 4,096, or as many as the smallest source needs. Each block holds the same whole number
of draws of each source, in a keyed order of its own. So the proportions are exact in every block, and the draws that a
source had before block b need no walk through the past: they are b times its draws in a block.

Weights of 2 and 1 in blocks of 6 give counts of 4 and 2. With seed 0 the first block is the sources 1 1 0 0 0 0 and the
second 0 0 0 0 1 1. Draw 6, the first of the second block, is draw number 4 of source 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from umt_ds.data.lru_cache import LruCache
from umt_ds.errors import ConfigError
from umt_ds.keyed import permutation

MOST = 1 << 20  # draws in a block: 12 MB of tables, a tenth of a second to deal


def block_counts(weights: Sequence[float], block: int, *, names: Sequence[str] = (), most: int = MOST) -> list[int]:
    """Whole draws of each source in a block, proportional to `weights`, by largest remainder.

    A block has `block` draws, or where a source would get none, twice as many as often as it takes, up to `most`.
    Raises ConfigError, with `names`, for a weight that is not positive, or so small that it gets no draw even then.
    """
    names = names or [f"number {number}" for number in range(1, len(weights) + 1)]
    total = sum(weights)
    wrong = [f"{name}: {weight}" for name, weight in zip(names, weights, strict=True) if not 0 < weight < np.inf]
    if wrong or not 0 < total < np.inf:
        raise ConfigError(f"source weights must be positive numbers ({_some(wrong) or f'their sum is {total}'})")
    while min(counts := _largest_remainder(weights, block)) == 0:
        if 2 * block > most:
            raise _too_small(names, counts, total, block)
        block *= 2
    return counts


def _largest_remainder(weights: Sequence[float], block: int) -> list[int]:
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * block
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(-(exact - counts), kind="stable")  # ties go to the source named first
    counts[largest[: block - int(counts.sum())]] += 1
    return [int(count) for count in counts]


def _too_small(names: Sequence[str], counts: Sequence[int], total: float, block: int) -> ConfigError:
    without = [name for name, count in zip(names, counts, strict=True) if count == 0]
    return ConfigError(
        f"the weights leave {_some(without)} without a single draw in {block:,}",
        hint=f"of weights that are {total:g} together the least is {total / block:.3g}: raise it, leave the source out "
        "or, if media are packed, take a larger batch.pack",
    )


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "")


class Mixture:
    """`mixture(draw)` → (source, k): draw number `draw` is the k-th draw of source `source`.

    A block has `block` draws, and more where small sources need it, up to `most`.
    """

    def __init__(
        self, weights: Sequence[float], *, seed: int, block: int = 4096, most: int = MOST, names: Sequence[str] = ()
    ) -> None:
        self.counts = block_counts(weights, block, most=max(block, most), names=names)
        self._block = sum(self.counts)
        self._seed = seed
        # a block before it is shuffled, for counts of 4 and 2: sources 0 0 0 0 1 1, ranks 0 1 2 3 0 1; i32 [M] each
        self._sorted = np.repeat(np.arange(len(self.counts), dtype=np.int32), self.counts)
        self._ranks = np.concatenate([np.arange(count, dtype=np.int32) for count in self.counts])
        self._blocks = LruCache(self._deal, size=2)

    def __call__(self, draw: int) -> tuple[int, int]:
        block, offset = divmod(draw, self._block)
        sources, ranks = self._blocks(block)
        source = int(sources[offset])
        return source, block * self.counts[source] + int(ranks[offset])

    def before(self, draw: int) -> list[int]:
        """How many draws each source had before draw `draw`."""
        block, offset = divmod(draw, self._block)
        begun = np.zeros(len(self.counts), np.int64)
        if offset:
            begun = np.bincount(self._blocks(block)[0][:offset], minlength=len(self.counts))
        return [block * count + int(own) for count, own in zip(self.counts, begun, strict=True)]

    def _deal(self, block: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The source of each draw of a block, and how often that source came earlier in the block: i32 [M] each."""
        sources = self._sorted[permutation(self._block, self._seed, "mixture", block)]
        ranks = np.empty_like(self._ranks)
        # a stable sort lists source 0's draws first, in order, then source 1's: as in the unshuffled block
        ranks[np.argsort(sources, kind="stable")] = self._ranks
        return sources, ranks
