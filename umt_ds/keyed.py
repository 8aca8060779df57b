"""Randomness as a function: the same key gives the same numbers on any machine, in any order.

Everything random in a run (order, augmentation, masks, drop path) is drawn from a key such as
(seed, "augment", draw), never from a generator that some process carries along. That is what makes a
job resume exactly, at any world size and worker count.

The bits come from Philox-4x64 (numpy's bit generator; its raw stream is stable between versions, which
numpy does not promise of its `Generator` distributions, so the few distributions here are our own).
Randomness on the device is `umt_ds.kernels.philox`.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

_TWO_64 = 1 << 64


def key_of(seed: int, *path: int | str) -> int:
    """A 64-bit key for (seed, path): distinct paths give independent keys."""
    # JSON keeps 1 and "1", and "a/b" and "a", "b", apart
    text = json.dumps([int(seed), *(part if isinstance(part, str) else int(part) for part in path)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class Stream:
    """A short stream of random numbers that belongs to one key.

    >>> Stream(0, "augment", 7).integer(10) == Stream(0, "augment", 7).integer(10)
    True
    """

    def __init__(self, seed: int, *path: int | str) -> None:
        self._bits = np.random.Philox(key=key_of(seed, *path))

    def raw(self) -> int:
        """64 random bits."""
        return int(self._bits.random_raw())

    def integer(self, n: int) -> int:
        """Uniform over 0 … n-1 (n ≥ 1; multiply-shift, bias below n / 2^64)."""
        if n < 1:
            raise ValueError(f"integer({n}): n must be at least 1")
        return (self.raw() * n) >> 64

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Uniform over [low, high), 53 random bits."""
        return low + (high - low) * ((self.raw() >> 11) * 2.0**-53)

    def distinct(self, n: int, count: int) -> list[int]:
        """`count` different numbers out of 0 … n-1, sorted (count ≤ n)."""
        return sorted(np.argsort(self._bits.random_raw(n), kind="stable")[:count].tolist())


def permutation(n: int, seed: int, *path: int | str) -> NDArray[np.int64]:
    """A keyed permutation of 0 … n-1, int64 [n]: the argsort of n keyed random words."""
    words = np.random.Philox(key=key_of(seed, *path)).random_raw(n)
    return np.argsort(words, kind="stable").astype(np.int64)


def digest64(*parts: int | str | bytes) -> int:
    """A 64-bit hash of the parts, for order digests; add them modulo 2^64 over a batch."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        state.update(len(data).to_bytes(4, "little") + data)
    return int.from_bytes(state.digest(), "little")


def add_digests(*digests: int) -> int:
    """The digest of a union: the sum modulo 2^64, independent of the order."""
    return sum(digests) % _TWO_64
