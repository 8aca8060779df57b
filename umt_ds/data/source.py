"""One folder of shards, read by ranges: only the members a step needs leave the disk.

What is wrong with the folder (a missing shard, an index that does not fit, a disk that does not answer)
stops the run with a DataError. What is wrong with one sample (its bytes do not match their CRC) is a
DecodeError, which costs that sample only: see `faults.py`.
"""

from __future__ import annotations

import os
import time
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from umt_ds.data.cache import KeepLast
from umt_ds.data.order import SampleRef
from umt_ds.data.records import (
    Manifest,
    Member,
    ShardEntry,
    ShardIndex,
    index_path,
    load_index,
    load_manifest,
    sha256_of,
)
from umt_ds.errors import DataError, DecodeError

RETRY_PAUSES_S = (0.1, 0.5, 2.0)


class RangeReader(Protocol):
    """Where shard bytes come from. Local files here; remote stores fit behind the same two calls."""

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """Exactly `size` bytes of the file `shard`, or DataError."""

    def close(self) -> None:
        """Let go of open files or connections."""


class LocalFiles:
    """Ranges of the files of one folder by pread, with at most `max_open` files open."""

    def __init__(self, folder: Path, *, max_open: int) -> None:
        self._folder = folder
        self._files = KeepLast(self._open, size=max_open, drop=os.close)

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """Tries again after a pause where the file system fails, then gives up with DataError.

        It never returns something else instead: what a passing failure replaces cannot be replayed.
        """
        for pause_s in (*RETRY_PAUSES_S, None):
            try:
                data = _pread(self._files(shard), offset, size)
                break
            except OSError as error:
                self._files.forget(shard)  # a stale handle does not recover; a new one may
                if pause_s is None:
                    raise DataError(
                        f"{self._folder / shard} cannot be read ({len(RETRY_PAUSES_S) + 1} tries): {error}",
                        hint="check the disk or mount, then start the same command again: it resumes",
                    ) from error
                time.sleep(pause_s)
        if len(data) < size:
            raise DataError(
                f"{self._folder / shard} ends at byte {offset + len(data)}, its index says {offset + size}",
                hint="the tar was truncated or replaced while the run read it: restore it",
            )
        return data

    def close(self) -> None:
        self._files.clear()

    def _open(self, shard: str) -> int:
        return os.open(self._folder / shard, os.O_RDONLY | os.O_CLOEXEC)


def _pread(file: int, offset: int, size: int) -> bytes:
    """`size` bytes at `offset`; fewer only where the file ends."""
    data = os.pread(file, size, offset)
    while len(data) < size and (more := os.pread(file, size - len(data), offset + len(data))):
        data += more
    return data


class ShardSource:
    """A manifest folder as numbered samples: counts, keys, members, verified bytes.

    Opening it reads the manifest and checks that every shard is there at its full size; files and
    indexes are opened on first use and at most `max_open` of each stay open.
    """

    def __init__(self, folder: Path, *, max_open: int = 32, reader: RangeReader | None = None) -> None:
        self.folder = folder
        self.manifest: Manifest = load_manifest(folder)
        self._check_files()
        self._ends = list(accumulate(self.counts))
        self._reader = reader or LocalFiles(folder, max_open=max_open)
        self._indexes = KeepLast(self._load_index, size=max_open)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

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

    def read(self, ref: SampleRef, member: Member) -> bytes:
        """The bytes of one member. Raises DecodeError where they do not match their CRC, DataError on I/O."""
        data = self._reader.read(self.manifest.shards[ref.shard].file, member.offset, member.size)
        if zlib.crc32(data) != member.crc:
            raise DecodeError(f"the bytes of {member.suffix} do not match their CRC")
        return data

    def close(self) -> None:
        """Close files and drop indexes; the source opens them again when it is used."""
        self._reader.close()
        self._indexes.clear()

    def _check_files(self) -> None:
        """One look at the folder, so that a missing or cut shard is found before the first step."""
        with os.scandir(self.folder) as listing:
            sizes = {file.name: file.stat().st_size for file in listing if file.is_file()}
        wanted = self.manifest.shards
        if missing := [entry.file for entry in wanted if entry.file not in sizes]:
            names = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
            raise DataError(
                f"{self.folder}: {len(missing)} of {len(wanted)} shards are missing: {names}",
                hint=f"restore them, or write the manifest for what is there: `umt-data index {self.folder} --force`",
            )
        for entry in wanted:
            if sizes[entry.file] != entry.bytes:
                raise self._changed(entry, f"{sizes[entry.file]} bytes on disk, {entry.bytes} in the manifest")

    def _load_index(self, shard: int) -> ShardIndex:
        """The index of one shard, checked against tar and manifest."""
        entry = self.manifest.shards[shard]
        tar = self.folder / entry.file
        index = load_index(tar)
        if len(index) != entry.samples:
            raise self._changed(entry, f"{len(index)} samples in its index, {entry.samples} in the manifest")
        if sha256_of(index_path(tar)) != entry.index_sha256:
            raise self._changed(entry, f"{index_path(tar).name} is not the file that the manifest names")
        return index

    def _changed(self, entry: ShardEntry, how: str) -> DataError:
        return DataError(
            f"shard {self.folder / entry.file} does not match its manifest: {how}",
            hint=f"restore it, or take it as it is now: `umt-data index {self.folder} --force`",
        )
