"""Where each member of each sample of a set lies: one memory-mapped file, the same pages for all processes of a node.

    OUT/index.arrow    an Arrow file; a page a shard, in the order of the manifest; a row a sample: its key, and of each
                       of its members the suffix (by number: the page names the suffixes), offset, size and CRC-32

It is made of the shards' own indexes (`NAME-000123.index.npz`) when the set is finished. Of a set that was written
before there was such a file one is made on the node, in a folder for temporary files; what lies in a store is copied
there, once a node.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from umt_ds.data.lru_cache import LruCache
from umt_ds.data.shards.arrow_files import ArrowFile, writing
from umt_ds.data.shards.manifest import ShardEntry
from umt_ds.data.shards.records import Member, ShardIndex
from umt_ds.data.shards.sample_members import Columns, SampleMembers
from umt_ds.errors import DataError

INDEX = "index.arrow"
_MEMBER = pa.struct([("suffix", pa.uint16()), ("offset", pa.int64()), ("size", pa.int64()), ("crc", pa.uint32())])
# check: CRC-32 of the row, so that what a disk has changed is found where it is used, and nothing else need be read
_SCHEMA = pa.schema([("key", pa.string()), ("members", pa.list_(_MEMBER)), ("check", pa.uint32())])
# notes of a page: the names of its suffixes, and the CRC-32 of all its keys: to check them with their rows takes a
# hundred times as long. Earlier versions wrote none
_SUFFIXES, _KEYS_CHECK = "suffixes", "keys_crc32"
_PAGES = 64  # kept at hand: to find one costs 0.05 ms and no memory

# A sample of so many members is kept at hand, checked and sorted: 15 minutes of frames take 30 ms, and 0.33 MB
_LONG, _LONG_SAMPLES = 1000, 64


class _ShardPage(NamedTuple):
    """The page of one shard: n samples, m members; views into the mapped file."""

    key_starts: NDArray[np.int32]  # [n+1]
    keys: memoryview  # u8, all keys one after the other
    starts: NDArray[np.int32]  # [n+1]
    columns: Columns  # [m] each: suffix, offset, size, CRC
    checks: NDArray[np.uint32]  # [n]
    suffixes: tuple[str, ...]

    def row(self, number: int) -> tuple[bytes, Columns] | None:
        """The key of a sample and its part of each column; None where they are not what was written."""
        spans = [starts[number : number + 2].tolist() for starts in (self.key_starts, self.starts)]
        if not all(
            0 <= a <= b <= end for (a, b), end in zip(spans, (len(self.keys), len(self.columns[0])), strict=True)
        ):
            return None
        key = bytes(self.keys[slice(*spans[0])])
        columns = cast(Columns, tuple(column[slice(*spans[1])] for column in self.columns))
        return (key, columns) if _check(self.suffixes, key, columns) == self.checks[number] else None


class _Row(NamedTuple):
    """A sample, as it was written. many: its members, where it is a long video."""

    key: bytes
    columns: Columns
    many: SampleMembers | None


class SetIndex:
    """Keys and members of all samples of a set, by shard (its place in the manifest) and row.

    path: a finished index.arrow on a disk of this machine. entries: of the manifest, which it must fit.
    Raises DataError where the file is damaged, or of another set: at once, or a row when it is asked for.
    """

    def __init__(self, path: Path, entries: tuple[ShardEntry, ...], *, hint: str) -> None:
        self._path, self._entries, self._hint = path, entries, hint
        self._file = ArrowFile(path, _SCHEMA, hint=hint)
        if len(self._file) < len(entries):  # there are more where the entries are those of an earlier version
            raise self._other(f"it has {len(self._file)} shards, the manifest {len(entries)}")
        self._pages: LruCache[int, _ShardPage] = LruCache(self._load, size=_PAGES)
        self._long: LruCache[tuple[int, int], _Row] = LruCache(self._load_long, size=_LONG_SAMPLES)

    def key(self, shard: int, row: int) -> str:
        """The key of a sample."""
        return self._row(shard, row).key.decode()

    def keys(self, shard: int) -> list[str]:
        """The keys of all samples of a shard, checked against the CRC of the page's keys."""
        batch, notes = self._file.page(shard)
        keys, entry = batch.column("key"), self._entries[shard]
        try:
            keys.validate(full=True)
        except pa.ArrowInvalid as error:
            raise self._other(f"{entry.file}: {error}") from error
        if len(keys) != entry.samples or keys.null_count:
            raise self._other(f"{entry.file} has {len(keys) - keys.null_count} keys in it")
        if (written := notes.get(_KEYS_CHECK)) is None:
            return [self.key(shard, row) for row in range(entry.samples)]
        if written != str(_check_of_keys(keys)):
            raise self._other(f"the keys of {entry.file} have changed since they were written")
        found: list[str] = keys.to_numpy(zero_copy_only=False).tolist()
        return found

    def members(self, shard: int, row: int) -> Sequence[Member]:
        """The members of a sample, in tar order; of a long video each is made when it is asked for."""
        _, columns, many = self._row(shard, row)
        if many is not None:
            return many
        suffixes = self._pages(shard).suffixes
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [Member(suffixes[suffix], offset, size, crc) for suffix, offset, size, crc in rows]

    def contents(self, shard: int) -> list[tuple[bytes, bytes]]:
        """Of each sample its key and the CRCs of its members: the same where the same sample lies in another shard."""
        rows = (self._row(shard, row) for row in range(self._entries[shard].samples))
        return [(row.key, row.columns[3].tobytes()) for row in rows]

    def close(self) -> None:
        """Let go of the pages at hand; the file stays mapped."""
        self._pages.clear()
        self._long.clear()

    def _row(self, shard: int, row: int) -> _Row:
        start, end = self._pages(shard).starts[row : row + 2].tolist()
        if end - start > _LONG:
            return self._long((shard, row))
        return _Row(*self._read(shard, row), None)

    def _read(self, shard: int, row: int) -> tuple[bytes, Columns]:
        found = self._pages(shard).row(row)
        if found is None:
            raise self._other(f"row {row} of {self._entries[shard].file} has changed since it was written")
        return found

    def _load_long(self, place: tuple[int, int]) -> _Row:
        key, columns = self._read(*place)
        return _Row(key, columns, SampleMembers(self._pages(place[0]).suffixes, columns))

    def _load(self, shard: int) -> _ShardPage:
        batch, notes = self._file.page(shard)
        entry = self._entries[shard]
        if batch.num_rows != entry.samples:
            raise self._other(f"{entry.file} has {batch.num_rows} samples in it, {entry.samples} in the manifest")
        key, members, check = (batch.column(name) for name in _SCHEMA.names)
        columns = tuple(members.values.field(number) for number in range(_MEMBER.num_fields))
        if any(column.null_count for column in (key, members, members.values, check, *columns)):
            raise self._other(f"it has empty rows for {entry.file}")
        _, key_starts, keys = key.buffers()
        return _ShardPage(
            key_starts=np.frombuffer(key_starts, np.int32)[: entry.samples + 1],
            keys=memoryview(keys or b""),
            starts=members.offsets.to_numpy(),
            columns=cast(Columns, tuple(column.to_numpy() for column in columns)),
            checks=check.to_numpy(),
            suffixes=tuple(map(sys.intern, notes.get(_SUFFIXES, "").split("\0"))),  # those of all pages are alike
        )

    def _other(self, what: str) -> DataError:
        return DataError(f"{self._path} does not fit its set: {what}", hint=self._hint)


def write_index(path: Path, indexes: Iterable[ShardIndex]) -> None:
    """Write the file of a set with these shards, a page at a time; the same indexes give the same bytes."""
    with writing(path, _SCHEMA) as writer:
        for index in indexes:
            names, numbers = np.unique(index.suffixes, return_inverse=True)
            suffixes = tuple(name.decode() for name in names.tolist())
            columns = (numbers.astype(np.uint16), index.offsets, index.sizes, index.crcs)
            keys: list[bytes] = index.keys.tolist()
            texts = pa.array([key.decode() for key in keys], pa.string())
            spans = pairwise(index.starts.tolist())
            checks = [
                _check(suffixes, key, [column[start:end] for column in columns])
                for key, (start, end) in zip(keys, spans, strict=True)
            ]
            members = pa.StructArray.from_arrays([pa.array(column) for column in columns], fields=list(_MEMBER))
            writer.add(
                {
                    "key": texts,
                    "members": pa.ListArray.from_arrays(index.starts.astype(np.int32), members),
                    "check": pa.array(checks, pa.uint32()),
                },
                {_SUFFIXES: "\0".join(suffixes), _KEYS_CHECK: str(_check_of_keys(texts))},
            )


def _check(suffixes: tuple[str, ...], key: bytes, columns: Iterable[NDArray[np.generic]]) -> int:
    """CRC-32 of a row, with the names of the page's suffixes."""
    crc = zlib.crc32(key, zlib.crc32("\0".join(suffixes).encode()))
    for column in columns:
        crc = zlib.crc32(column.tobytes(), crc)
    return crc


def _check_of_keys(keys: pa.StringArray) -> int:
    """CRC-32 of the keys of a page, and of where each ends."""
    _, places, text = keys.buffers()
    starts = np.frombuffer(places, np.int32)[: len(keys) + 1]
    return zlib.crc32(memoryview(text or b"")[: starts[-1]], zlib.crc32(starts.tobytes()))
