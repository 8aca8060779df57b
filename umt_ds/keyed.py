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
import math
import threading

import numpy as np
from numpy.typing import NDArray

_TWO_64 = 1 << 64


def key_of(seed: int, *path: int | str) -> int:
    """A 64-bit key for (seed, path): distinct paths give independent keys."""
    # JSON keeps 1 and "1", and "a/b" and "a", "b", apart
    text = json.dumps([int(seed), *(part if isinstance(part, str) else int(part) for part in path)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class _Words(threading.local):
    """`words(key, n)`: the first n words of a key, u64 [n]. One Philox a thread, set to each key in turn: making one
    takes ten times as long, because numpy first seeds it from the machine's entropy."""

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._state = self._bits.state  # at the first word

    def __call__(self, key: int, n: int) -> NDArray[np.uint64]:
        self._state["state"]["key"][0] = key
        self._bits.state = self._state
        return self._bits.random_raw(n)


_words = _Words()


class Stream:
    """A short stream of random numbers that belongs to one key.

    >>> Stream(0, "augment", 7).integer(10) == Stream(0, "augment", 7).integer(10)
    True
    """

    def __init__(self, seed: int, *path: int | str) -> None:
        self._key = key_of(seed, *path)
        self._drawn: list[int] = []
        self._next = 0

    def raw(self) -> int:
        """64 random bits."""
        if self._next == len(self._drawn):
            self._drawn = _words(self._key, max(8, 2 * self._next)).tolist()
        self._next += 1
        return self._drawn[self._next - 1]

    def integer(self, n: int) -> int:
        """Uniform over 0 … n-1 (n ≥ 1; multiply-shift, bias below n / 2^64)."""
        if n < 1:
            raise ValueError(f"integer({n}): n must be at least 1")
        return (self.raw() * n) >> 64

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Uniform over [low, high), 53 random bits."""
        return low + (high - low) * ((self.raw() >> 11) * 2.0**-53)

    def normal(self, mean: float = 0.0, deviation: float = 1.0) -> float:
        """Of a normal distribution (Box and Muller); two words."""
        radius = math.sqrt(-2 * math.log(1 - self.uniform()))
        return mean + deviation * radius * math.cos(2 * math.pi * self.uniform())

    def distinct(self, n: int, count: int) -> list[int]:
        """`count` different numbers out of 0 … n-1, sorted (count ≤ n)."""
        words = np.array([self.raw() for _ in range(n)], np.uint64)
        return sorted(np.argsort(words, kind="stable")[:count].tolist())


def permutation(n: int, seed: int, *path: int | str) -> NDArray[np.int64]:
    """A keyed permutation of 0 … n-1, int64 [n]: the argsort of n keyed random words."""
    return np.argsort(_words(key_of(seed, *path), n), kind="stable").astype(np.int64)


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
