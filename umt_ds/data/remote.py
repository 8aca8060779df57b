"""Ranges of files in a store (s3://, hf://, http://, …), by blocks that are kept in memory and on a local disk.

A clip's members lie together in its tar, so its few pictures cost one request for the blocks that they lie in, and
parts of neighbouring clips come with them. `expect` fetches what a whole batch needs, many requests at a time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from umt_ds.data.block_cache import BlockCache
from umt_ds.data.cache import KeepLast
from umt_ds.data.places import place, read_range
from umt_ds.errors import DataError

RETRY_PAUSES_S = (0.5, 2.0, 8.0)  # besides what the store's own library tries
BLOCK = 1 << 18  # bytes: half a clip of 32 stored frames
_BLOCKS_A_REQUEST = 32  # larger ranges are cut, and their parts fetched together
_REQUESTS = 16  # at a time, of one worker
_BLOCKS_IN_MEMORY = 256  # what a batch of 64 clips needs: without room on disk, too, each block is fetched once

Block = tuple[str, int]  # file, number


@dataclass(frozen=True)
class RemoteFile:
    """A file of the folder: its size in bytes, and the hash of its content, by which its blocks are kept."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Traffic:
    """Bytes that came over the network, in how many requests, and bytes that the cache on disk had."""

    fetched: int = 0
    requests: int = 0
    cached: int = 0

    def __str__(self) -> str:
        from_store = f"fetched {self.fetched / 1e6:,.1f} MB in {self.requests:,} requests"
        return f"{from_store}, its cache had {self.cached / 1e6:,.1f} MB"

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.fetched + other.fetched, self.requests + other.requests, self.cached + other.cached)


class RemoteFiles:
    """Ranges of `files`, by name, in `folder`. `cache`: where blocks are kept on disk; None: in memory only.

    It may be made before a fork: each process makes connections of its own when it first needs them.
    """

    def __init__(self, folder: Path, files: Mapping[str, RemoteFile], cache: BlockCache | None) -> None:
        self._folder = folder
        self._files = files
        self._cache = cache
        self._process = 0  # where `_folder` was opened: the thread behind its connections does not survive a fork
        self._at_hand: KeepLast[Block, bytes] = KeepLast(self._load, size=_BLOCKS_IN_MEMORY)
        self._traffic = Traffic()

    def read(self, file: str, offset: int, size: int) -> bytes:
        """Exactly `size` bytes, or DataError."""
        blocks = _blocks(file, offset, size)
        fetched = self._fetch(self._missing(blocks))
        data = b"".join(fetched.get(block) or self._at_hand(block) for block in blocks)
        return data[offset % BLOCK : offset % BLOCK + size]

    def expect(self, ranges: Iterable[tuple[str, int, int]]) -> None:
        """These (file, offset, size) will be read next: fetch what is not here, many at a time."""
        self._fetch(self._missing({block for one in ranges for block in _blocks(*one)}))

    def forget(self, file: str, offset: int, size: int) -> bool:
        """Drop what is kept of a range, because it is damaged. True: reading it again may give something else."""
        for block in _blocks(file, offset, size):
            self._drop(block)
        return True

    def take_traffic(self) -> Traffic:
        """What was moved in this process since the last call."""
        taken, self._traffic = self._traffic, Traffic()
        return taken

    def close(self) -> None:
        """Let go of the blocks in memory."""
        self._at_hand.clear()

    # ---------------------------------------------------------------- blocks

    def _name(self, block: Block) -> str:
        file, number = block
        return f"{self._files[file].sha256}-{number}"

    def _size(self, block: Block) -> int:
        file, number = block
        return min(BLOCK, self._files[file].size - number * BLOCK)

    def _missing(self, blocks: Iterable[Block]) -> list[Block]:
        """Those that are neither in memory nor on disk."""
        far = (block for block in blocks if block not in self._at_hand)
        return [block for block in far if self._cache is None or not self._cache.has(self._name(block))]

    def _drop(self, block: Block) -> None:
        self._at_hand.forget(block)
        if self._cache is not None:
            self._cache.drop(self._name(block))

    def _load(self, block: Block) -> bytes:
        """From the cache on disk; from the store where another process has dropped it a moment ago, or cut it."""
        data = None if self._cache is None else self._cache.get(self._name(block))
        if data is None or len(data) != self._size(block):
            self._drop(block)
            return self._fetch([block])[block]
        self._traffic += Traffic(cached=len(data))
        return data

    def _fetch(self, blocks: Iterable[Block]) -> dict[Block, bytes]:
        """Get blocks from the store and keep them: neighbours in one request, several requests at a time."""
        runs = list(_runs(blocks))
        fetched: dict[Block, bytes] = {}
        if not runs:
            return fetched
        self._connect()
        with ThreadPoolExecutor(min(_REQUESTS, len(runs))) as pool:
            for run, data in zip(runs, pool.map(self._get, runs), strict=True):
                self._traffic += Traffic(fetched=len(data), requests=1)
                for number, block in enumerate(run):
                    fetched[block] = data[number * BLOCK : (number + 1) * BLOCK]
                    self._at_hand.keep(block, fetched[block])
                    if self._cache is not None:
                        self._cache.put(self._name(block), fetched[block])
        return fetched

    def _get(self, run: list[Block]) -> bytes:
        """The bytes of neighbouring blocks from the store. Tries again after a pause, then gives up with DataError."""
        file, first = run[0]
        path, offset, size = self._folder / file, first * BLOCK, sum(map(self._size, run))
        for pause_s in (*RETRY_PAUSES_S, None):
            try:
                data = read_range(path, offset, size)
                break
            except FileNotFoundError as error:
                raise DataError(f"{path} is gone: {error}", hint="restore it; then the same command resumes") from error
            except OSError as error:
                if pause_s is None:
                    raise DataError(
                        f"{path} cannot be read ({len(RETRY_PAUSES_S) + 1} tries): {error}",
                        hint="check the store and the network, then start the same command again: it resumes",
                    ) from error
                time.sleep(pause_s)
        _check_length(path, len(data), offset, size)
        return data

    def _connect(self) -> None:
        if self._process != os.getpid():
            self._folder, self._process = place(str(self._folder)), os.getpid()


def _check_length(path: Path, length: int, offset: int, size: int) -> None:
    if length < size:
        raise DataError(
            f"{path} ends at byte {offset + length}, its index says {offset + size}",
            hint="the file was truncated or replaced while the run read it: restore it",
        )
    if length > size:
        raise DataError(
            f"{path}: the server gave {length} bytes where {size} were asked for: it does not know HTTP ranges",
            hint="serve the shards by one that does (nginx, Apache, S3), or copy them to a disk",
        )


def _blocks(file: str, offset: int, size: int) -> list[Block]:
    """The blocks that a range lies in."""
    return [(file, number) for number in range(offset // BLOCK, -(-(offset + size) // BLOCK))] if size else []


def _runs(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    """Blocks sorted and cut where they are no neighbours, or too many."""
    run: list[Block] = []
    for file, number in sorted(blocks):
        if run and ((file, number - 1) != run[-1] or len(run) == _BLOCKS_A_REQUEST):
            yield run
            run = []
        run.append((file, number))
    if run:
        yield run
