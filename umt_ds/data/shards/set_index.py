"""Where each member of each sample of a set lies: one memory-mapped file, the same pages for all processes of a node.

    OUT/index.arrow    an Arrow file; a page a shard, in the order of the manifest; a row a sample: its key, and of each
                       of its members the suffix (by number: the page names the suffixes), offset, size and CRC-32

It is made of the shards' own indexes (`NAME-000123.index.npz`) when the set is finished. Of a set that was written
before there was such a file one is made on the node, in a folder for temporary files; what lies in a store is copied
there, once a node.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from umt_ds.data.lru_cache import LruCache
from umt_ds.data.shards.arrow_files import ArrowFile, writing
from umt_ds.data.shards.records import Member, ShardEntry, ShardIndex
from umt_ds.errors import DataError

INDEX = "index.arrow"
_MEMBER = pa.struct([("suffix", pa.uint16()), ("offset", pa.int64()), ("size", pa.int64()), ("crc", pa.uint32())])
_SCHEMA = pa.schema([("key", pa.string()), ("members", pa.list_(_MEMBER))])
_PAGES = 64  # kept at hand: what costs is 0.1 ms to find a page, and no memory


class _ShardPage(NamedTuple):
    """The page of one shard: views into the mapped file."""

    keys: pa.StringArray
    starts: NDArray[np.int32]  # [n+1]
    suffixes: tuple[str, ...]
    columns: tuple[NDArray[np.uint16], NDArray[np.int64], NDArray[np.int64], NDArray[np.uint32]]  # [m] each


class SetIndex:
    """Keys and members of all samples of a set, by shard (its place in the manifest) and row.

    path: a finished index.arrow on a disk of this machine. entries: of the manifest, which it must fit.
    Raises DataError where the file is damaged, or of another set.
    """

    def __init__(self, path: Path, entries: tuple[ShardEntry, ...], *, hint: str) -> None:
        self._path, self._entries, self._hint = path, entries, hint
        self._file = ArrowFile(path, _SCHEMA, hint=hint)
        if len(self._file) != len(entries):
            raise self._other(f"it has {len(self._file)} shards, the manifest {len(entries)}")
        self._pages: LruCache[int, _ShardPage] = LruCache(self._load, size=_PAGES)

    def key(self, shard: int, row: int) -> str:
        """The key of a sample."""
        return str(self._pages(shard).keys[row].as_py())

    def keys(self, shard: int) -> list[str]:
        """The keys of a shard's samples, in the order of the tar."""
        keys: list[str] = self._pages(shard).keys.to_pylist()
        return keys

    def members(self, shard: int, row: int) -> list[Member]:
        """The members of a sample, in tar order."""
        page = self._pages(shard)
        span = slice(int(page.starts[row]), int(page.starts[row + 1]))
        rows = zip(*(column[span].tolist() for column in page.columns), strict=True)
        return [Member(page.suffixes[suffix], offset, size, crc) for suffix, offset, size, crc in rows]

    def contents(self, shard: int) -> list[tuple[bytes, bytes]]:
        """Of each sample its key and the CRCs of its members: the same where the same sample lies in another shard."""
        page = self._pages(shard)
        crcs, spans = page.columns[3], pairwise(page.starts.tolist())
        return [
            (key.encode(), crcs[start:end].tobytes())
            for key, (start, end) in zip(page.keys.to_pylist(), spans, strict=True)
        ]

    def close(self) -> None:
        """Let go of the pages at hand; the file stays mapped."""
        self._pages.clear()

    def _load(self, shard: int) -> _ShardPage:
        batch, notes = self._file.page(shard)
        entry = self._entries[shard]
        if batch.num_rows != entry.samples:
            raise self._other(f"{entry.file} has {batch.num_rows} samples in it, {entry.samples} in the manifest")
        keys, members = batch.column("key"), batch.column("members")
        if keys.null_count or members.null_count or members.values.null_count:
            raise self._other(f"it has empty rows for {entry.file}")
        columns = tuple(members.values.field(number).to_numpy() for number in range(_MEMBER.num_fields))
        starts = members.offsets.to_numpy()
        suffixes = tuple(notes.get("suffixes", "").split("\0"))
        if str(_crc(keys.to_pylist(), suffixes, starts, columns)) != notes.get("crc"):
            raise self._other(f"its bytes for {entry.file} have changed since it was written")
        if (columns[1] + columns[2] > entry.bytes).any():
            raise self._other(f"it names bytes that {entry.file} does not have")
        return _ShardPage(keys, starts, suffixes, columns)

    def _other(self, what: str) -> DataError:
        return DataError(f"{self._path} does not fit its set: {what}", hint=self._hint)


def write_index(path: Path, indexes: Iterable[ShardIndex]) -> None:
    """Write the file of a set with these shards, a page at a time; the same indexes give the same bytes."""
    with writing(path, _SCHEMA) as writer:
        for index in indexes:
            names, numbers = np.unique(index.suffixes, return_inverse=True)
            suffixes = tuple(name.decode() for name in names.tolist())
            columns = (numbers.astype(np.uint16), index.offsets, index.sizes, index.crcs)
            starts = index.starts.astype(np.int32)
            keys = [key.decode() for key in index.keys.tolist()]
            members = pa.ListArray.from_arrays(
                starts, pa.StructArray.from_arrays([pa.array(c) for c in columns], fields=list(_MEMBER))
            )
            notes = {"suffixes": "\0".join(suffixes), "crc": str(_crc(keys, suffixes, starts, columns))}
            writer.add({"key": pa.array(keys, pa.string()), "members": members}, notes)


def _crc(
    keys: Iterable[str], suffixes: Iterable[str], starts: NDArray[np.int32], columns: Iterable[NDArray[np.generic]]
) -> int:
    """Of a page: what a disk has changed in it is found before it is used."""
    crc = zlib.crc32("\0".join([*keys, "", *suffixes]).encode())
    for column in (starts, *columns):
        crc = zlib.crc32(np.ascontiguousarray(column).tobytes(), crc)
    return crc
