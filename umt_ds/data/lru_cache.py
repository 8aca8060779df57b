"""A small cache that keeps what was used last: permutations, open files, indexes. Only ever speed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """`cache(key)` returns `make(key)`; the `size` values used last are kept, the others dropped.

    functools.lru_cache cannot close a file when it lets one go; this one calls `drop` on it.
    """

    def __init__(self, make: Callable[[K], V], *, size: int, drop: Callable[[V], object] | None = None) -> None:
        self._make = make
        self._size = size
        self._drop = drop
        self._kept: OrderedDict[K, V] = OrderedDict()

    def __call__(self, key: K) -> V:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        value = self._make(key)
        self.keep(key, value)
        return value

    def __contains__(self, key: K) -> bool:
        return key in self._kept

    def keep(self, key: K, value: V) -> None:
        """Put in a value that was made elsewhere; it counts as used last."""
        self.forget(key)
        self._kept[key] = value
        if len(self._kept) > self._size:
            self._let_go(next(iter(self._kept)))

    def forget(self, key: K) -> None:
        """Drop one value, so that the next call makes it anew."""
        if key in self._kept:
            self._let_go(key)

    def clear(self) -> None:
        """Drop everything."""
        for key in list(self._kept):
            self._let_go(key)

    def _let_go(self, key: K) -> None:
        value = self._kept.pop(key)
        if self._drop is not None:
            self._drop(value)
