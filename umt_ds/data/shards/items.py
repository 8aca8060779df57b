"""What is asked of the clips of a set: a table of items over the samples in its shards. Torch-free.

A sample is frames; an item is a question about them: a caption, a label, a question with its answers, a span of the
frames. A set without a table has one item a sample. A table can lie in another folder than the shards, and there can
be many over the same ones:

    OUT/items.arrow    an Arrow file that pandas, polars and duckdb read; a page a shard, in the order of the shards, as
                       windows of training are; a row an item: `shard` and `row` of its sample, its own `key`, `first`
                       and `last` stored frame where it is a part of the sample, and columns of any name for what is
                       asked (`caption`, `label`, …), which stand in the place of what the json of the sample says
    OUT/rows-0.npy     which items of another set are in this one, as ranges [start, end) of their numbers: i64 [n,2]
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from umt_ds.data.lru_cache import LruCache
from umt_ds.data.shards.arrow_files import ArrowFile, writing
from umt_ds.errors import DataError

ITEMS = "items.arrow"
_NUMBER = pa.int32()
_PLACE = pa.schema([("shard", _NUMBER), ("row", _NUMBER), ("key", pa.string()), ("first", _NUMBER), ("last", _NUMBER)])
_PAGES = 64

Range = tuple[int, int]  # [start, end)
KeysOf = Callable[[int], list[str]]  # of the samples of a shard


@dataclass(frozen=True)
class Item:
    """One row of a table. key: None where it is that of the sample. frames: first and last stored frame; None: all of
    them. fields: what stands in the place of the json's fields of these names."""

    shard: int
    row: int
    key: str | None = None
    frames: tuple[int, int] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


class ItemTable(Protocol):
    """Items by the shard that their sample lies in, and their place among those of the shard."""

    @property
    def counts(self) -> Sequence[int]:
        """Items of each shard."""

    def item(self, shard: int, nth: int, /) -> Item:
        """The nth item of a shard. Raises DataError where the table is damaged."""

    def keys(self, shard: int, of_samples: KeysOf, /) -> list[str]:
        """The keys of all items of a shard. of_samples: those of the samples of a shard; asked where an item has no key
        of its own."""

    def rows(self, shard: int, /) -> NDArray[np.int64]:
        """The samples of all items of a shard, by their rows."""

    def asks(self, shard: int, /) -> bool:
        """Whether items of a shard say something of their own; else they are its samples, as they are."""


class AllSamples:
    """One item a sample. counts: samples of each shard."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = tuple(counts)

    def item(self, shard: int, nth: int) -> Item:
        return Item(shard, nth)

    def keys(self, shard: int, of_samples: KeysOf) -> list[str]:
        return of_samples(shard)

    def rows(self, shard: int) -> NDArray[np.int64]:
        return np.arange(self.counts[shard])

    def asks(self, shard: int) -> bool:
        return False


class ArrowItems:
    """A table in a mapped file, over shards with so many `samples`."""

    def __init__(self, path: Path, samples: Sequence[int], *, hint: str) -> None:
        self._path, self._samples, self._hint = path, samples, hint
        self._file = ArrowFile(path, _PLACE, hint=hint)
        told = (self._file.schema.metadata or {}).get(b"counts", b"[]")
        try:
            self.counts = tuple(int(count) for count in json.loads(told))
        except (ValueError, TypeError) as error:
            raise self._wrong("it does not say how many items each shard has") from error
        if not len(self.counts) == len(self._file) == len(samples):
            raise self._wrong(f"it is over {len(self._file)} shards, and there are {len(samples)}")
        self._fields = [name for name in self._file.schema.names if name not in _PLACE.names]
        self._pages: LruCache[int, pa.RecordBatch] = LruCache(self._load, size=_PAGES)

    def item(self, shard: int, nth: int) -> Item:
        page = self._pages(shard)
        place = {name: page.column(name)[nth].as_py() for name in _PLACE.names}
        said = {name: page.column(name)[nth].as_py() for name in self._fields}
        frames = None if place["first"] is None or place["last"] is None else (place["first"], place["last"])
        row = place["row"]
        if place["shard"] != shard or row is None or not 0 <= row < self._samples[shard]:
            raise self._wrong(f"item {nth} of shard {shard} is of a sample that is not there")
        fields = {name: value for name, value in said.items() if value is not None}
        return Item(shard, row, place["key"], frames, fields)

    def keys(self, shard: int, of_samples: KeysOf) -> list[str]:
        rows = self.rows(shard)
        own: list[str | None] = self._pages(shard).column("key").to_pylist()
        samples = of_samples(shard) if None in own else []
        return [samples[row] if key is None else key for key, row in zip(own, rows.tolist(), strict=True)]

    def rows(self, shard: int) -> NDArray[np.int64]:
        page = self._pages(shard)
        shards, rows = (np.array(page.column(name).fill_null(-1)) for name in ("shard", "row"))
        if (shards != shard).any() or (rows < 0).any() or (rows >= self._samples[shard]).any():
            raise self._wrong(f"an item of shard {shard} is of a sample that is not there")
        return rows.astype(np.int64)

    def asks(self, shard: int) -> bool:
        return True

    def _load(self, shard: int) -> pa.RecordBatch:
        batch = self._file.page(shard).batch
        try:
            batch.validate(full=True)
        except pa.ArrowInvalid as error:
            raise self._wrong(f"page {shard}: {error}") from error
        if batch.num_rows != self.counts[shard]:
            raise self._wrong(f"shard {shard} has {batch.num_rows} items in it, and should have {self.counts[shard]}")
        return batch

    def _wrong(self, what: str) -> DataError:
        return DataError(f"{self._path} does not fit its set: {what}", hint=self._hint)


class SelectedItems:
    """Some items of a table, by ranges [start, end) of their numbers, in order and apart from each other: i64 [n,2]."""

    def __init__(self, table: ItemTable, ranges: NDArray[np.int64]) -> None:
        self._table, self._ranges = table, ranges
        self._before = np.concatenate([[0], np.cumsum(ranges[:, 1] - ranges[:, 0])])  # [n+1] selected before a range
        self._starts = np.concatenate([[0], np.cumsum(table.counts)])  # [shards+1] numbers of all items
        self._selected = self._num_before(self._starts)  # [shards+1] selected before each shard
        self.counts = tuple(np.diff(self._selected).tolist())

    def item(self, shard: int, nth: int) -> Item:
        number = int(self._selected[shard]) + nth
        place = int(np.searchsorted(self._before, number, side="right")) - 1
        among_all = int(self._ranges[place, 0]) + number - int(self._before[place])
        return self._table.item(shard, among_all - int(self._starts[shard]))

    def keys(self, shard: int, of_samples: KeysOf) -> list[str]:
        within = self._within(shard)
        keys = self._table.keys(shard, of_samples) if len(within) else []
        return [key for first, last in within.tolist() for key in keys[first:last]]

    def rows(self, shard: int) -> NDArray[np.int64]:
        within = self._within(shard)
        if not len(within):
            return np.empty(0, np.int64)
        rows = self._table.rows(shard)
        return np.concatenate([rows[first:last] for first, last in within.tolist()])

    def asks(self, shard: int) -> bool:
        return self._table.asks(shard)

    def _within(self, shard: int) -> NDArray[np.int64]:
        """The ranges of selected items among those of a shard: i64 [n,2]."""
        start, end = self._starts[shard : shard + 2].tolist()
        within: NDArray[np.int64] = np.clip(self._ranges[self._touching(start, end)], start, end) - start
        return within

    def _touching(self, start: int, end: int) -> slice:
        """The ranges that have numbers in [start, end)."""
        first = np.searchsorted(self._ranges[:, 1], start, side="right")
        return slice(int(first), int(np.searchsorted(self._ranges[:, 0], end, side="left")))

    def _num_before(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many selected items have a smaller number than each of these."""
        place = np.searchsorted(self._ranges[:, 0], numbers, side="right") - 1
        inside = np.minimum(numbers, self._ranges[place, 1]) - self._ranges[place, 0] if len(self._ranges) else numbers
        return np.where(place < 0, 0, self._before[place] + inside)


class JoinedItems:
    """The items of several tables, one after the other, over the shards of all of them."""

    def __init__(self, tables: Sequence[ItemTable]) -> None:
        self._tables = tables
        self._ends = list(accumulate(len(table.counts) for table in tables))
        self.counts = tuple(count for table in tables for count in table.counts)

    def item(self, shard: int, nth: int) -> Item:
        which = bisect_right(self._ends, shard)
        before = self._ends[which - 1] if which else 0
        found = self._tables[which].item(shard - before, nth)
        return Item(found.shard + before, found.row, found.key, found.frames, found.fields)

    def keys(self, shard: int, of_samples: KeysOf) -> list[str]:
        which = bisect_right(self._ends, shard)
        before = self._ends[which - 1] if which else 0
        return self._tables[which].keys(shard - before, lambda own: of_samples(own + before))

    def rows(self, shard: int) -> NDArray[np.int64]:
        table, own = self._place(shard)
        return table.rows(own)

    def asks(self, shard: int) -> bool:
        table, own = self._place(shard)
        return table.asks(own)

    def _place(self, shard: int) -> tuple[ItemTable, int]:
        """The table that a shard is of, and its number there."""
        which = bisect_right(self._ends, shard)
        return self._tables[which], shard - (self._ends[which - 1] if which else 0)


def ranges_of(selected: Iterable[int]) -> NDArray[np.int64]:
    """Ascending numbers as ranges [start, end): i64 [n,2]."""
    numbers = selected if isinstance(selected, np.ndarray) else np.fromiter(selected, np.int64)
    if not len(numbers):
        return np.empty((0, 2), np.int64)
    breaks = np.flatnonzero(np.diff(numbers) != 1)
    starts = numbers[np.concatenate([[0], breaks + 1])]
    ends = numbers[np.concatenate([breaks, [len(numbers) - 1]])] + 1
    return np.stack([starts, ends], axis=1)


def write_items(path: Path, items: Sequence[Item], *, num_shards: int) -> None:
    """Write a table over `num_shards` shards; the items of a shard stay in their order.

    Raises DataError where the values of a field are of different kinds.
    """
    by_shard: list[list[Item]] = [[] for _ in range(num_shards)]
    for item in items:
        by_shard[item.shard].append(item)
    schema = _schema(items).with_metadata({"counts": json.dumps([len(some) for some in by_shard])})
    with writing(path, schema) as writer:
        for some in by_shard:
            writer.add({one.name: pa.array([_cell(item, one.name) for item in some], one.type) for one in schema})


def _cell(item: Item, name: str) -> Any:
    match name:
        case "shard":
            return item.shard
        case "row":
            return item.row
        case "key":
            return item.key
        case "first":
            return item.frames and item.frames[0]
        case "last":
            return item.frames and item.frames[1]
        case _:
            return item.fields.get(name)


def _schema(items: Sequence[Item]) -> pa.Schema:
    names = list(dict.fromkeys(name for item in items for name in item.fields))
    columns = []
    for name in names:
        try:
            columns.append(pa.field(name, pa.array([item.fields.get(name) for item in items]).type))
        except pa.ArrowException as error:
            raise DataError(
                f"the values of {name!r} are of different kinds: {error}",
                hint="give every item text, or every one a number, or every one a list of the same",
            ) from error
    return pa.schema([*_PLACE, *columns])
