"""One folder of shards, on a disk or in a store, read by ranges: only what a step needs is read.

What is wrong with the folder (a missing shard, an index that does not fit, a disk that does not answer)
stops the run with a DataError. What is wrong with one sample (its bytes do not match their CRC) is a
DecodeError, which costs that sample only: see `faults.py`.
"""

from __future__ import annotations

import os
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from umt_ds.data.lru_cache import LruCache
from umt_ds.data.shards.block_cache import BlockCache
from umt_ds.data.shards.records import (
    Manifest,
    Member,
    SampleRef,
    ShardEntry,
    ShardIndex,
    index_path,
    load_manifest,
    parse_index,
)
from umt_ds.data.shards.remote import RemoteFile, RemoteFiles, Traffic
from umt_ds.data.shards.storage import RETRY_PAUSES_S, is_away, is_local, patiently, sizes_of
from umt_ds.data.shards.store_answers import hint_of
from umt_ds.errors import DataError, DecodeError


class RangeReader(Protocol):
    """Where shard bytes come from: `LocalFiles` here, or `remote.RemoteFiles`."""

    def read(self, file: str, offset: int, size: int, /) -> bytes:
        """Exactly `size` bytes of a file of the folder, or DataError."""

    def prefetch(self, ranges: Iterable[tuple[str, int, int]], /) -> None:
        """These (file, offset, size) will be read next."""

    def forget(self, file: str, offset: int, size: int, /) -> bool:
        """A range came damaged. True: it came from a copy, now dropped, and reading again may give something else."""

    def take_traffic(self) -> Traffic:
        """What was moved over the network in this process since the last call."""

    def close(self) -> None:
        """Let go of open files or connections."""


class LocalFiles:
    """Ranges of the files of one folder by pread, with at most `max_open` files open."""

    def __init__(self, folder: Path, *, max_open: int) -> None:
        self._folder = folder
        self._files = LruCache(self._open, size=max_open, drop=os.close)

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """Tries again after a pause where the file system fails, then gives up with DataError.

        It never returns something else instead: what a passing failure replaces cannot be replayed.
        """

        def read() -> bytes:
            try:
                data = _pread(self._files(shard), offset, size)
                if len(data) < size:
                    raise _EndsEarlyError(f"it ends at byte {offset + len(data)}, its index says {offset + size}")
                return data
            except OSError:
                self._files.forget(shard)  # a stale handle does not recover; a new one may
                raise

        path = self._folder / shard
        try:
            return patiently(read, RETRY_PAUSES_S)
        except _EndsEarlyError as error:
            raise DataError(
                f"{path}: {error}", hint="the tar was truncated or replaced while the run read it: restore it"
            ) from error
        except OSError as error:
            raise _unreadable(path, error) from error

    def prefetch(self, ranges: Iterable[tuple[str, int, int]]) -> None:
        """The disk needs no notice."""

    def forget(self, shard: str, offset: int, size: int) -> bool:
        """There is no other copy."""
        return False

    def take_traffic(self) -> Traffic:
        """Nothing goes over the network."""
        return Traffic()

    def close(self) -> None:
        self._files.clear()

    def _open(self, shard: str) -> int:
        return os.open(self._folder / shard, os.O_RDONLY | os.O_CLOEXEC)


class _EndsEarlyError(OSError):
    """A file is shorter than its index says."""


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path} cannot be read ({len(RETRY_PAUSES_S) + 1} tries): {error}",
        hint="check the disk or mount, then start the same command again: it resumes",
    )


def _pread(file: int, offset: int, size: int) -> bytes:
    """`size` bytes at `offset`; fewer only where the file ends."""
    data = os.pread(file, size, offset)
    while len(data) < size and (more := os.pread(file, size - len(data), offset + len(data))):
        data += more
    return data


class ShardSource:
    """A manifest folder as numbered samples: counts, keys, members, verified bytes.

    Opening it reads the manifest and checks that every shard is there at its full size; files and
    indexes are opened on first use and at most `max_open` of each stay open. `cache` keeps on this node's
    disk what comes from a store.
    """

    def __init__(self, folder: Path, *, max_open: int = 32, cache: BlockCache | None = None) -> None:
        self.folder = folder
        self.manifest: Manifest = load_manifest(folder, wait=True)
        self._is_local = is_local(folder)
        self._sizes = self._check_files()
        self._ends = list(accumulate(self.counts))
        self._reader: RangeReader = (
            LocalFiles(folder, max_open=max_open)
            if self._is_local
            else RemoteFiles(folder, self._remote_files(), cache)
        )
        self._indexes = LruCache(self._load_index, size=max_open)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def set_name(self) -> str:
        """What messages call it."""
        return str(self.folder)

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return len(self)

    @property
    def counts(self) -> tuple[int, ...]:
        """Samples per shard, in manifest order."""
        return tuple(entry.samples for entry in self.manifest.shards)

    @property
    def fingerprint(self) -> str:
        """Changes whenever what a run would read changes."""
        return self.manifest.fingerprint

    def refs(self) -> Iterator[SampleRef]:
        """Every sample once, in manifest order."""
        return (self.ref(number) for number in range(len(self)))

    def ref(self, number: int) -> SampleRef:
        """Sample `number` in manifest order."""
        shard = bisect_right(self._ends, number)
        return SampleRef(shard, number - (self._ends[shard] - self.counts[shard]))

    def key(self, ref: SampleRef) -> str:
        """The key of a sample: its name in tar, log and digest."""
        return self._indexes(ref.shard).key(ref.row)

    def members(self, ref: SampleRef) -> list[Member]:
        """The files of a sample, in tar order."""
        return self._indexes(ref.shard).members(ref.row)

    def contents(self, shard: int) -> list[tuple[bytes, bytes]]:
        """Key and CRCs of each sample of a shard (its place in the manifest)."""
        return self._indexes(shard).contents()

    def read(self, ref: SampleRef, member: Member) -> bytes:
        """The bytes of one member. Raises DecodeError where they do not match their CRC, DataError on I/O."""
        file = self.manifest.shards[ref.shard].file
        data = self._read(file, member.offset, member.size, fits=lambda data: zlib.crc32(data) == member.crc)
        if data is None:
            raise DecodeError(f"the bytes of {member.suffix} do not match their CRC")
        return data

    def prefetch(self, shown: Iterable[tuple[SampleRef, Sequence[Member]]]) -> None:
        """These members of these samples will be read next. From a store they are fetched now, many at a time."""
        if self._is_local:
            return
        self._reader.prefetch(
            (self.manifest.shards[ref.shard].file, member.offset, member.size)
            for ref, members in shown
            for member in members
        )

    def take_traffic(self) -> Traffic:
        """What was moved over the network in this process since the last call."""
        return self._reader.take_traffic()

    def close(self) -> None:
        """Close files and drop indexes; the source opens them again when it is used."""
        self._reader.close()
        self._indexes.clear()

    def _check_files(self) -> dict[str, int]:
        """One look at the folder, so that a missing or cut shard is found before the first step. Sizes by name."""
        wanted = self.manifest.shards
        names = [entry.file for entry in wanted]
        try:
            sizes = patiently(self._list, RETRY_PAUSES_S)
        except OSError as error:
            raise DataError(
                f"{self.folder} cannot be listed: {error}",
                hint=hint_of(error) or "check the disk or mount, or network and credentials",
            ) from error
        if missing := [name for name in names if name not in sizes]:
            listed = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
            raise DataError(
                f"{self.folder}: {len(missing)} of {len(wanted)} shards are missing: {listed}",
                hint=f"restore them, or write the manifest for what is there: `umt-data index {self.folder} --force`",
            )
        for entry in wanted:
            if sizes[entry.file] != entry.bytes:
                where = "on disk" if self._is_local else "in the store"
                raise self._changed(entry, f"{sizes[entry.file]} bytes {where}, {entry.bytes} in the manifest")
        return sizes

    def _list(self) -> dict[str, int]:
        """Sizes of the shards, and in a store of their indexes too, by name."""
        names = [entry.file for entry in self.manifest.shards]
        if self._is_local and is_away(self.folder):
            raise FileNotFoundError(f"{self.folder} is not there, or empty")
        return sizes_of(self.folder, names if self._is_local else [*names, *map(_index_name, names)])

    def _remote_files(self) -> dict[str, RemoteFile]:
        """The shards and their indexes, by name."""
        shards = self.manifest.shards
        files = {entry.file: RemoteFile(entry.bytes, entry.sha256) for entry in shards}
        hashes = {_index_name(entry.file): entry.index_sha256 for entry in shards}
        return files | {name: RemoteFile(self._sizes[name], hashes[name]) for name in hashes if name in self._sizes}

    def _read(self, file: str, offset: int, size: int, *, fits: Callable[[bytes], bool]) -> bytes | None:
        """Bytes that fit their checksum. A damaged copy is dropped and read anew once; None: they do not fit."""
        for _ in range(2):
            data = self._reader.read(file, offset, size)
            if fits(data):
                return data
            if not self._reader.forget(file, offset, size):
                break
        return None

    def _load_index(self, shard: int) -> ShardIndex:
        """The index of one shard, checked against tar and manifest."""
        entry = self.manifest.shards[shard]
        index = self._local_index(entry) if self._is_local else self._remote_index(entry)
        if len(index) != entry.samples:
            raise self._changed(entry, f"{len(index)} samples in its index, {entry.samples} in the manifest")
        return index

    def _local_index(self, entry: ShardEntry) -> ShardIndex:
        path = index_path(self.folder / entry.file)
        try:
            data = patiently(path.read_bytes, RETRY_PAUSES_S)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not is_away(self.folder):
                raise self._no_index(entry) from error
            raise _unreadable(path, error) from error
        if sha256(data).hexdigest() != entry.index_sha256:
            raise self._other_index(entry)
        return parse_index(data, path)

    def _remote_index(self, entry: ShardEntry) -> ShardIndex:
        """Read as the shards are, so that it too is kept on disk: every worker of a node needs it."""
        path = index_path(self.folder / entry.file)
        if path.name not in self._sizes:
            raise self._no_index(entry)
        size = self._sizes[path.name]
        data = self._read(path.name, 0, size, fits=lambda data: sha256(data).hexdigest() == entry.index_sha256)
        if data is None:
            raise self._other_index(entry)
        return parse_index(data, path)

    def _no_index(self, entry: ShardEntry) -> DataError:
        path = index_path(self.folder / entry.file)
        return DataError(f"shard {entry.file} has no index {path}", hint=f"run `umt-data index {self.folder}`")

    def _other_index(self, entry: ShardEntry) -> DataError:
        return self._changed(entry, f"{_index_name(entry.file)} is not the file that the manifest names")

    def _changed(self, entry: ShardEntry, how: str) -> DataError:
        return DataError(
            f"shard {self.folder / entry.file} does not match its manifest: {how}",
            hint=f"restore it, or take it as it is now: `umt-data index {self.folder} --force`",
        )


def _index_name(tar: str) -> str:
    return index_path(Path(tar)).name
