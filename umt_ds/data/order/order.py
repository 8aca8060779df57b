"""The order of samples inside one source, as a pure function of (seed, k).

Draw number k of a source belongs to pass p = k // n, where n counts the source's samples. Each pass shuffles the
shards, cuts the shuffled list into windows of W shards and shuffles the samples inside each window. So one pass shows
every sample once, two passes differ, and a reader has at most W shards open at a time. There is no generator and no
state: resuming means calling with the next k.

Two shards of 3 and 2 samples, a window of 1 shard, seed 1. A sample is (shard, row):

    k        0     1   |   2     3     4    |   5     6     7   |   8     9
    sample (1,1) (1,0) | (0,2) (0,1) (0,0)  | (0,1) (0,2) (0,0) | (1,0) (1,1)
             window 0  |      window 1      |     window 0      |  window 1
                       pass 0               |            pass 1
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
    """One pass with its shards side by side in shuffled order, before samples are shuffled inside the windows.

    A position counts the samples from the start of the pass. In pass 0 of the example above: shards [1, 0],
    shard_starts [0, 2, 5], window_starts [0, 2, 5].
    """

    shards: NDArray[np.int64]  # [S] shard numbers
    shard_starts: NDArray[np.int64]  # [S+1] position of each shard's first sample, and the end
    window_starts: NDArray[np.int64]  # [windows+1] position of each window's first sample, and the end

    def window_at(self, position: int) -> int:
        """The window that holds a position."""
        return int(np.searchsorted(self.window_starts, position, side="right")) - 1

    def sample_at(self, position: int) -> tuple[int, int]:
        """Shard and row of the sample at a position."""
        nth = int(np.searchsorted(self.shard_starts, position, side="right")) - 1
        return int(self.shards[nth]), position - int(self.shard_starts[nth])


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
        # two of each: readers prefetch past the end of a window or a pass, and come back where a sample is replaced
        self._passes = LruCache(self._shuffle_shards, size=2)
        self._inside = LruCache(self._shuffle_window, size=2)

    def __len__(self) -> int:
        """Samples in one pass."""
        return self._num_samples

    def __call__(self, k: int) -> SampleRef:
        pass_, position = divmod(k, self._num_samples)
        layout = self._passes(pass_)
        window = layout.window_at(position)
        start = int(layout.window_starts[window])
        shuffled = start + int(self._inside((pass_, window))[position - start])
        shard, row = layout.sample_at(shuffled)
        return SampleRef(shard, row, pass_)

    def window_of(self, k: int) -> range:
        """The draws that share their window with draw k: what its reader has open at that time."""
        pass_, position = divmod(k, self._num_samples)
        layout = self._passes(pass_)
        start, end = layout.window_starts[layout.window_at(position) :][:2].tolist()
        return range(pass_ * self._num_samples + start, pass_ * self._num_samples + end)

    def _shuffle_shards(self, pass_: int) -> _Pass:
        shards = permutation(len(self._counts), self._seed, "shards", pass_)
        shard_starts = np.concatenate([[0], np.cumsum(self._counts[shards])])
        window_starts = np.append(shard_starts[: -1 : self._window], shard_starts[-1])
        return _Pass(shards, shard_starts, window_starts)

    def _shuffle_window(self, key: tuple[int, int]) -> NDArray[np.int64]:
        """The shuffled order of the samples of a window, counted from its start. key: pass and window."""
        pass_, window = key
        start, end = self._passes(pass_).window_starts[window : window + 2]
        return permutation(int(end - start), self._seed, "window", pass_, window)
