"""Ranges of files in a store (s3://, hf://, http://, …), by blocks that are kept in memory and on a local disk.

A clip's members lie together in its tar, so its few pictures cost one request for the blocks that they lie in, and
parts of neighbouring clips come with them. `prefetch` fetches what a whole batch needs, many requests at a time.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from umt_ds.data.lru_cache import LruCache
from umt_ds.data.shards.block_cache import BlockCache
from umt_ds.data.shards.storage import RETRY_PAUSES_S, as_path, patiently, read_range, sizes_of
from umt_ds.data.shards.store_answers import hint_of
from umt_ds.errors import DataError

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
    """Bytes that came over the network, in how many requests, and bytes that the cache on disk had.

    unkept: blocks that the cache could not keep; problem: why not, of one of them.
    """

    fetched: int = 0
    requests: int = 0
    cached: int = 0
    unkept: int = 0
    problem: str = ""

    def __str__(self) -> str:
        from_store = f"fetched {self.fetched / 1e6:,.1f} MB in {self.requests:,} requests"
        unkept = f"; {self.unkept:,} blocks could not be kept there ({self.problem})" if self.unkept else ""
        return f"{from_store}, its cache had {self.cached / 1e6:,.1f} MB{unkept}"

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.fetched + other.fetched,
            self.requests + other.requests,
            self.cached + other.cached,
            self.unkept + other.unkept,
            self.problem or other.problem,
        )


class RemoteFiles:
    """Ranges of `files`, by name, in `folder`. `cache`: where blocks are kept on disk; None: in memory only.

    It may be made before a fork: each process makes connections of its own when it first needs them.
    """

    def __init__(self, folder: Path, files: Mapping[str, RemoteFile], cache: BlockCache | None) -> None:
        self._folder = folder
        self._files = files
        self._cache = cache
        self._process = 0  # where `_folder` was opened: the thread behind its connections does not survive a fork
        self._at_hand: LruCache[Block, bytes] = LruCache(self._load, size=_BLOCKS_IN_MEMORY)
        self._traffic = Traffic()

    def read(self, file: str, offset: int, size: int) -> bytes:
        """Exactly `size` bytes, or DataError."""
        blocks = _blocks(file, offset, size)
        fetched = self._fetch(self._missing(blocks))
        data = b"".join(fetched.get(block) or self._at_hand(block) for block in blocks)
        return data[offset % BLOCK : offset % BLOCK + size]

    def prefetch(self, ranges: Iterable[tuple[str, int, int]]) -> None:
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
                    if self._cache and (problem := self._cache.put(self._name(block), fetched[block])):
                        self._traffic += Traffic(unkept=1, problem=problem)
        return fetched

    def _get(self, run: list[Block]) -> bytes:
        """The bytes of neighbouring blocks from the store. Tries again after a pause, then gives up with DataError."""
        file, first = run[0]
        path, offset, size = self._folder / file, first * BLOCK, sum(map(self._size, run))

        def read() -> bytes:
            data = read_range(path, offset, size)
            if len(data) != size:  # no error for HTTP, if only its headers agree
                raise _WrongLengthError(len(data), size)
            return data

        try:
            return patiently(read, RETRY_PAUSES_S)
        except FileNotFoundError as error:
            raise DataError(f"{path} is gone: {error}", hint="restore it; then the same command resumes") from error
        except OSError as error:
            raise self._unreadable(file, error) from error

    def _unreadable(self, file: str, error: OSError) -> DataError:
        """Why a range cannot be had: the store gives it too long or too short, has another file by now, or fails."""
        path, wanted = self._folder / file, self._files[file].size
        if isinstance(error, _WrongLengthError) and error.got > error.asked:
            return DataError(
                f"{path}: the server gave {error.got} bytes where {error.asked} were asked for: it does not know HTTP "
                "ranges",
                hint="serve the shards by one that does (nginx, Apache, S3), or copy them to a disk",
            )
        asked_past_the_end = isinstance(error, _WrongLengthError) or error.errno == errno.EINVAL  # HTTP 416
        if asked_past_the_end and (size := self._size_now(file)) not in (None, 0, wanted):  # 0: it does not say
            return DataError(
                f"{path} ends at byte {size}, its manifest or index says {wanted}",
                hint="the file was truncated or replaced while the run read it: restore it",
            )
        return DataError(
            f"{path} cannot be read ({len(RETRY_PAUSES_S) + 1} tries): {error}",
            hint=hint_of(error)
            or "check the store, its proxies and the network, then start the same command again: it resumes",
        )

    def _size_now(self, file: str) -> int | None:
        try:
            return sizes_of(self._folder, [file]).get(file)
        except OSError:
            return None

    def _connect(self) -> None:
        if self._process != os.getpid():
            self._folder, self._process = as_path(str(self._folder)), os.getpid()


class _WrongLengthError(OSError):
    """An answer with fewer or more bytes than were asked for."""

    def __init__(self, got: int, asked: int) -> None:
        super().__init__(f"it sent {got} bytes of {asked}")
        self.got, self.asked = got, asked


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
