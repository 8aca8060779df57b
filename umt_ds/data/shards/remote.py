"""Ranges of files in a store (s3://, hf://, http://, …); what was fetched is kept in memory and on a local disk.

`prefetch` is told what a whole batch will read: the members of its clips that it shows. These come many requests at a
time, exactly, but that ranges no farther apart than `max_gap` come in one request with what lies between them,
which is kept as well: the next pass shows other frames of the clip. A file is kept by blocks, a block as the parts of
it that are known (`parts.py`).

A store that throttles or does not answer slows a run down, for ten minutes at most (`back_off.py`).
"""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from umt_ds.data.lru_cache import LruCache
from umt_ds.data.shards.back_off import request_slot
from umt_ds.data.shards.block_cache import BlockCache
from umt_ds.data.shards.fetch import in_time, together
from umt_ds.data.shards.parts import Parts
from umt_ds.data.shards.storage import as_path, patiently, read_range, sizes_of, tries, without_own_tries
from umt_ds.data.shards.store_answers import WrongLengthError, hint_of
from umt_ds.environment import set_default
from umt_ds.errors import DataError

BLOCK = 1 << 18  # bytes: what is kept under one name
STALL_S = 60.0  # for one answer, of PIECE bytes at most
_REQUESTS = 16  # at a time, of one worker
_BLOCKS_IN_MEMORY = 256  # what a batch of 64 clips needs: without room on disk, too, each range is fetched once

Block = tuple[str, int]  # file, number
Span = tuple[Block, int, int]  # a block, and the bytes [start, end) of it


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
    """Ranges of `files`, by name, in `folder`. `cache`: where blocks are kept on disk; None: in memory only. `max_gap`:
    see `fetch.together`.

    It may be made before a fork: each process makes connections of its own when it first needs them.
    """

    def __init__(
        self, folder: Path, files: Mapping[str, RemoteFile], cache: BlockCache | None, *, max_gap: int | None = None
    ) -> None:
        self._folder = folder
        self._files = files
        self._cache = cache
        self._max_gap = max_gap
        self._process = 0  # where `_folder` was opened: the thread behind its connections does not survive a fork
        self._at_hand: LruCache[Block, Parts] = LruCache(lambda block: Parts(), size=_BLOCKS_IN_MEMORY)
        self._traffic = Traffic()

    def read(self, file: str, offset: int, size: int) -> bytes:
        """Exactly `size` bytes, or DataError."""
        spans = list(_spans(file, offset, size))
        known = self._have(spans)
        return b"".join(known[block].read(start, end) for block, start, end in spans)

    def prefetch(self, ranges: Iterable[tuple[str, int, int]]) -> None:
        """These (file, offset, size) will be read next: fetch what is not here, many at a time."""
        self._have([span for one in self._as_many_as_stay(ranges) for span in _spans(*one)])

    def forget(self, file: str, offset: int, size: int) -> bool:
        """Drop what is kept of a range, because it is damaged. True: reading it again may give something else."""
        for block, _, _ in _spans(file, offset, size):
            self._drop(block)
        return True

    def take_traffic(self) -> Traffic:
        """What was moved in this process since the last call."""
        taken, self._traffic = self._traffic, Traffic()
        return taken

    def close(self) -> None:
        """Let go of the blocks in memory."""
        self._at_hand.clear()

    def _as_many_as_stay(self, ranges: Iterable[tuple[str, int, int]]) -> Iterator[tuple[str, int, int]]:
        """Without a cache on disk, the first that memory holds: what it let go again would be fetched twice."""
        room = _BLOCKS_IN_MEMORY * BLOCK // 2  # half of a block may be its neighbour's
        for one in ranges:
            room -= one[2]
            if room >= 0 or self._cache is not None:
                yield one

    # ---------------------------------------------------------------- blocks

    def _have(self, spans: list[Span]) -> dict[Block, Parts]:
        """The blocks of these spans, each known there: from memory, from the cache on disk, or fetched now."""
        known = {block: self._at_hand(block) for block, _, _ in spans}
        if missing := _missing(known, spans):
            known |= {block: self._looked_up(block) for block in dict.fromkeys(block for block, _, _ in missing)}
            far = _missing(known, missing)
            self._traffic += Traffic(cached=_num_bytes(missing) - _num_bytes(far))
            known |= self._fetch(far, known)
        return known

    def _looked_up(self, block: Block) -> Parts:
        """A block as memory and the cache on disk have it. What is there, other processes may have put there."""
        parts = self._at_hand(block)
        packed = None if self._cache is None else self._cache.get(self._name(block))
        if packed is not None:
            kept = Parts.unpacked(packed, size=BLOCK)
            if kept is None:
                self._drop(block)
            else:
                parts = parts.put(kept.known)
            self._at_hand.keep(block, parts)
        return parts

    def _name(self, block: Block) -> str:
        file, number = block
        return f"{self._files[file].sha256}-{number}"

    def _drop(self, block: Block) -> None:
        self._at_hand.forget(block)
        if self._cache is not None:
            self._cache.drop(self._name(block))

    def _fetch(self, far: list[Span], known: Mapping[Block, Parts]) -> dict[Block, Parts]:
        """Get spans from the store, several requests at a time, and keep their blocks with what was known of them."""
        requests = list(_requests(far, max_gap=self._max_gap))
        if not requests:
            return {}
        self._connect()
        came: defaultdict[Block, list[tuple[int, bytes]]] = defaultdict(list)
        with ThreadPoolExecutor(min(_REQUESTS, len(requests))) as pool:
            for (file, first, size), data in zip(requests, pool.map(self._get, requests), strict=True):
                self._traffic += Traffic(fetched=size, requests=1)
                for block, start, end in _spans(file, first, size):
                    at = block[1] * BLOCK + start - first
                    came[block].append((start, data[at : at + end - start]))
        before = {block: known.get(block) or self._looked_up(block) for block in came}
        return {block: self._keep(block, before[block].put(parts)) for block, parts in came.items()}

    def _keep(self, block: Block, parts: Parts) -> Parts:
        """Without a lock: where another process keeps the block in the same moment, its parts are fetched again."""
        self._at_hand.keep(block, parts)
        if self._cache and (problem := self._cache.put(self._name(block), parts.packed())):
            self._traffic += Traffic(unkept=1, problem=problem)
        return parts

    def _get(self, request: tuple[str, int, int]) -> bytes:
        """A range from the store. Waits while that is overloaded or away; what it refuses is a DataError."""
        file, offset, size = request
        path = self._folder / file

        def read() -> bytes:
            data = in_time(partial(read_range, path, offset, size), stall_s=STALL_S)
            if len(data) != size:  # no error for HTTP, if only its headers agree
                raise WrongLengthError(len(data), size)
            return data

        try:
            with request_slot():
                return patiently(read, of=path)
        except FileNotFoundError as error:
            raise DataError(f"{path} is gone: {error}", hint="restore it; then the same command resumes") from error
        except OSError as error:
            raise self._unreadable(file, error) from error

    def _unreadable(self, file: str, error: OSError) -> DataError:
        """Why a range cannot be had: the store gives it too long or too short, has another file by now, or fails."""
        path, wanted = self._folder / file, self._files[file].size
        if isinstance(error, WrongLengthError) and error.got > error.asked:
            return DataError(
                f"{path}: the server gave {error.got} bytes where {error.asked} were asked for: it does not know HTTP "
                "ranges",
                hint="serve the shards by one that does (nginx, Apache, S3), or copy them to a disk",
            )
        asked_past_the_end = isinstance(error, WrongLengthError) or error.errno == errno.EINVAL  # HTTP 416
        if asked_past_the_end and (size := self._size_now(file)) not in (None, 0, wanted):  # 0: it does not say
            return DataError(
                f"{path} ends at byte {size}, its manifest or index says {wanted}",
                hint="the file was truncated or replaced while the run read it: restore it",
            )
        return DataError(
            f"{path} cannot be read ({tries(error, of=path)}): {error}",
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
            set_default("AWS_MAX_ATTEMPTS", "1")  # botocore's own tries, as `without_own_tries`
            self._folder, self._process = without_own_tries(as_path(str(self._folder))), os.getpid()


def _spans(file: str, offset: int, size: int) -> Iterator[Span]:
    """A range of a file, block by block."""
    end = offset + size
    for number in range(offset // BLOCK, -(-end // BLOCK)) if size else ():
        first = number * BLOCK
        yield (file, number), max(offset, first) - first, min(end, first + BLOCK) - first


def _missing(known: Mapping[Block, Parts], spans: Iterable[Span]) -> list[Span]:
    """What of these spans is unknown, once."""
    gaps = {(block, *gap) for block, start, end in spans for gap in known[block].missing(start, end)}
    return sorted(gaps)


def _num_bytes(spans: Iterable[Span]) -> int:
    return sum(end - start for _, start, end in spans)


def _requests(spans: Iterable[Span], *, max_gap: int | None) -> Iterator[tuple[str, int, int]]:
    """(file, offset, size) of the requests that fetch these spans."""
    ranges: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for (file, number), start, end in spans:
        ranges[file].append((number * BLOCK + start, end - start))
    for file, own in ranges.items():
        for start, end, _ in together(own, max_gap=max_gap):
            yield file, start, end - start
