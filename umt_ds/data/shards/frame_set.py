"""One folder of shards, on a disk or in a store, read by ranges: only what a step needs is read.

What is wrong with the folder (a missing shard, an index that does not fit, a disk that does not answer)
stops the run with a DataError. What is wrong with one sample (its bytes do not match their CRC) is a
DecodeError, which costs that sample only: see `faults.py`.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from umt_ds.data.lru_cache import LruCache
from umt_ds.data.shards.block_cache import BlockCache
from umt_ds.data.shards.manifest import Manifest, ShardEntry
from umt_ds.data.shards.node_index import open_index
from umt_ds.data.shards.records import Member
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


class FrameSet:
    """The samples of one folder by shard (its place in the manifest) and row: keys, members, verified bytes.

    Opening it maps the index and, unless another process has just done so (`look=False`), checks that every shard is
    there at its full size; files are opened on first use and at most `max_open` of them stay open. `cache` keeps on
    this node's disk what comes from a store; `max_gap`: see `fetch.together`.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        max_open: int = 32,
        cache: BlockCache | None = None,
        look: bool = True,
        max_gap: int | None = None,
    ) -> None:
        self.folder, self.manifest = folder, manifest
        self.is_local = is_local(folder)
        if look:
            self._check_files()
        self._reader: RangeReader = (
            LocalFiles(folder, max_open=max_open)
            if self.is_local
            else RemoteFiles(folder, self._remote_files(), cache, max_gap=max_gap)
        )
        self._index = open_index(folder, manifest)

    def key(self, shard: int, row: int) -> str:
        """The key of a sample: its name in the tar."""
        return self._index.key(shard, row)

    def keys(self, shard: int) -> list[str]:
        """The keys of all samples of a shard."""
        return self._index.keys(shard)

    def members(self, shard: int, row: int) -> Sequence[Member]:
        """The files of a sample, in tar order."""
        return self._index.members(shard, row)

    def contents(self, shard: int) -> list[tuple[bytes, bytes]]:
        """Key and CRCs of each sample of a shard."""
        return self._index.contents(shard)

    def read(self, shard: int, member: Member) -> bytes:
        """The bytes of one member. Raises DecodeError where they do not match their CRC, DataError on I/O."""
        file = self.manifest.shards[shard].file
        data = self._read(file, member.offset, member.size, fits=lambda data: zlib.crc32(data) == member.crc)
        if data is None:
            raise DecodeError(f"the bytes of {member.suffix} do not match their CRC")
        return data

    def prefetch(self, shown: Iterable[tuple[int, Sequence[Member]]]) -> None:
        """These members of these shards will be read next. From a store they are fetched now, many at a time."""
        self._reader.prefetch(
            (self.manifest.shards[shard].file, member.offset, member.size)
            for shard, members in shown
            for member in members
        )

    def take_traffic(self) -> Traffic:
        """What was moved over the network in this process since the last call."""
        return self._reader.take_traffic()

    def close(self) -> None:
        """Close files; they open again when they are used."""
        self._reader.close()
        self._index.close()

    def _check_files(self) -> None:
        """One look at the folder, so that a missing or cut shard is found before the first step."""
        wanted = self.manifest.shards
        names = [entry.file for entry in wanted]
        try:
            sizes = patiently(self._list, RETRY_PAUSES_S, of=self.folder)
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
                where = "on disk" if self.is_local else "in the store"
                raise self._changed(entry, f"{sizes[entry.file]} bytes {where}, {entry.bytes} in the manifest")

    def _list(self) -> dict[str, int]:
        """Sizes of the shards by name."""
        if self.is_local and is_away(self.folder):
            raise FileNotFoundError(f"{self.folder} is not there, or empty")
        return sizes_of(self.folder, [entry.file for entry in self.manifest.shards])

    def _remote_files(self) -> dict[str, RemoteFile]:
        """The shards by name."""
        return {entry.file: RemoteFile(entry.bytes, entry.sha256) for entry in self.manifest.shards}

    def _read(self, file: str, offset: int, size: int, *, fits: Callable[[bytes], bool]) -> bytes | None:
        """Bytes that fit their checksum. A damaged copy is dropped and read anew once; None: they do not fit."""
        for _ in range(2):
            data = self._reader.read(file, offset, size)
            if fits(data):
                return data
            if not self._reader.forget(file, offset, size):
                break
        return None

    def _changed(self, entry: ShardEntry, how: str) -> DataError:
        return DataError(
            f"shard {self.folder / entry.file} does not match its manifest: {how}",
            hint=f"restore it, or take it as it is now: `umt-data index {self.folder} --force`",
        )
