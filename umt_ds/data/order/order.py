"""The order of samples inside one source, as a pure function of (seed, k).

Draw number k of a source belongs to pass p = k // n. Each pass shuffles the shards, cuts the shuffled
list into windows of W shards and shuffles the samples inside each window. So one pass shows every
sample once, two passes differ, and a reader has at most W shards open at a time.
There is no generator and no state: resuming means calling with the next k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from umt_ds.data.lru_cache import LruCache
from umt_ds.data.shards.records import SampleRef
from umt_ds.errors import DataError
from umt_ds.keyed import permutation


@dataclass(frozen=True)
class _Pass:
    """The shards of one pass in their shuffled order, and where their samples and windows begin."""

    shards: NDArray[np.int64]  # [S] shard numbers
    starts: NDArray[np.int64]  # [S+1] samples before each of them
    windows: NDArray[np.int64]  # [windows+1] samples before each window


class Order:
    """`order(k)` is the k-th sample of an endless sequence of shuffled passes over one source.

    counts: samples per shard. Within one pass (k // n fixed) it is a bijection onto all samples.
    """

    def __init__(self, counts: Sequence[int], *, seed: int, window: int = 16) -> None:
        if window < 1:
            raise ValueError(f"window={window}: must be at least 1")
        self._counts = np.asarray(counts, dtype=np.int64)
        self._num_samples = int(self._counts.sum())
        if self._num_samples == 0:
            raise DataError("the source holds no samples", hint="its shards are empty: write them again")
        self._seed = seed
        self._window = window
        # two of each: reading runs ahead over the end of a window or a pass, and comes back for substitutes
        self._passes = LruCache(self._shuffle_shards, size=2)
        self._inside = LruCache(self._shuffle_window, size=2)

    def __len__(self) -> int:
        """Samples in one pass."""
        return self._num_samples

    def __call__(self, k: int) -> SampleRef:
        pass_, place = divmod(k, self._num_samples)
        layout = self._passes(pass_)
        window = self._window_at(layout, place)
        first = int(layout.windows[window])
        shuffled = first + int(self._inside((pass_, window))[place - first])
        slot = int(np.searchsorted(layout.starts, shuffled, side="right")) - 1
        return SampleRef(int(layout.shards[slot]), shuffled - int(layout.starts[slot]), pass_)

    def window_of(self, k: int) -> range:
        """The draws that share their window with draw k: what its reader has open at that time."""
        pass_, place = divmod(k, self._num_samples)
        layout = self._passes(pass_)
        window = self._window_at(layout, place)
        base = pass_ * self._num_samples
        return range(base + int(layout.windows[window]), base + int(layout.windows[window + 1]))

    @staticmethod
    def _window_at(layout: _Pass, place: int) -> int:
        return int(np.searchsorted(layout.windows, place, side="right")) - 1

    def _shuffle_shards(self, pass_: int) -> _Pass:
        shards = permutation(len(self._counts), self._seed, "shards", pass_)
        starts = np.concatenate([[0], np.cumsum(self._counts[shards])])
        windows = np.append(starts[: -1 : self._window], starts[-1])
        return _Pass(shards, starts, windows)

    def _shuffle_window(self, key: tuple[int, int]) -> NDArray[np.int64]:
        pass_, window = key
        first, end = self._passes(pass_).windows[window : window + 2]
        return permutation(int(end - first), self._seed, "window", pass_, window)
