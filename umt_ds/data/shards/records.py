"""The shard contract: what lies in a folder of shards, and how to read it. Torch-free.

    k710-train-000123.tar            plain WebDataset tar: KEY.000.jpg … KEY.031.jpg, KEY.json, KEY2.000.jpg, …
    k710-train-000123.index.npz      where each member lies in the tar: offset, size, CRC-32
    index.arrow                      the indexes of all shards in one, which training maps (`set_index.py`)
    manifest.json                    the set: shards with counts and hashes, options, fingerprint (`manifest.py`)

A sample is one clip. Its media are frames (`000.jpg` …), one array (`npy`, uint8 [T,H,W,3]), one whole
video (`mp4`, `webm`, …) or one image (`jpg`, `png`, …: a clip of one frame). Any WebDataset tool reads
the tars; the index only makes single members addressable, so that eight frames of 32 cost eight reads.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from umt_ds.data.shards.fetch import opened, read_ranges, read_whole, reading, size_of
from umt_ds.data.shards.storage import is_local, write_whole
from umt_ds.errors import DataError


def sample_key(relative_path: str) -> str:
    """The key of a clip: its relative path without extension, odd characters percent-encoded.

    A dot would end the key for WebDataset, and a leading slash or `..` would leave the folder on
    extraction: every character but letters, digits, `_`, `-` and `/` is encoded, dots included.
    """
    stem = os.path.splitext(relative_path.replace(os.sep, "/").strip("/"))[0]
    return quote(stem, safe="/").replace(".", "%2E").replace("~", "%7E")


class Member(NamedTuple):  # a dataclass takes four times as long to make, and reading makes 33 a clip
    """One file inside a tar: bytes [offset, offset + size), CRC-32 of them."""

    suffix: str
    offset: int
    size: int
    crc: int


@dataclass(frozen=True)
class SampleRef:
    """Sample `row` of shard `shard` (its place in the manifest), shown in pass `pass_`."""

    shard: int
    row: int
    pass_: int = 0


@dataclass(frozen=True)
class ShardIndex:
    """Where each member of each sample lies. n samples, m members; members of sample i are
    `starts[i] : starts[i+1]`, in tar order."""

    tar_size: int
    keys: NDArray[np.bytes_]  # [n]
    starts: NDArray[np.int64]  # [n+1]
    suffixes: NDArray[np.bytes_]  # [m]
    offsets: NDArray[np.int64]  # [m]
    sizes: NDArray[np.int64]  # [m]
    crcs: NDArray[np.uint32]  # [m]

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> str:
        return bytes(self.keys[row]).decode()

    def members(self, row: int) -> list[Member]:
        """The members of sample `row`, in tar order."""
        span = slice(int(self.starts[row]), int(self.starts[row + 1]))
        columns = (column[span].tolist() for column in (self.suffixes, self.offsets, self.sizes, self.crcs))
        return [Member(suffix.decode(), offset, size, crc) for suffix, offset, size, crc in zip(*columns, strict=True)]

    def save(self, path: Path) -> None:
        """Write as .npz beside the tar; the same index gives the same bytes."""
        out = io.BytesIO()
        np.savez(
            out,
            tar_size=np.int64(self.tar_size),
            keys=self.keys,
            starts=self.starts,
            suffixes=self.suffixes,
            offsets=self.offsets,
            sizes=self.sizes,
            crcs=self.crcs,
        )
        write_whole(path, out.getvalue())


def index_path(tar: Path) -> Path:
    """`x.tar` → `x.index.npz`."""
    return tar.with_name(tar.name.removesuffix(".tar") + ".index.npz")


def load_index(tar: Path) -> ShardIndex:
    """Read the index of `tar` and check that it belongs to it.

    Raises DataError where the tar or its index is missing or unreadable, or their sizes disagree; MachineError where
    that is not their own fault.
    """
    path = index_path(tar)
    try:
        actual = size_of(tar)
    except FileNotFoundError as error:
        raise DataError(f"shard {tar} is missing", hint=f"restore it, or run `umt-data index {tar.parent}`") from error
    except OSError as error:
        raise _cannot_be_read(tar, error) from error
    try:
        data = read_whole(path)
    except FileNotFoundError as error:
        raise DataError(f"shard {tar} has no index {path.name}", hint=f"run `umt-data index {tar.parent}`") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    index = parse_index(data, path)
    if actual != index.tar_size:
        raise DataError(
            f"index {path.name} does not match its tar {tar}: {index.tar_size} bytes indexed, {actual} on disk",
            hint="the tar was truncated or replaced: restore it, or run "
            f"`umt-data index {tar.parent} --force` to index what is there now",
        )
    return index


def _cannot_be_read(tar: Path, error: OSError) -> DataError:
    return DataError(f"shard {tar} cannot be read: {error}", hint="look at its permissions and its disk")


# what numpy, zipfile and zlib raise on a stranger's bytes; RuntimeError: a flipped bit says "encrypted"
_DAMAGED = (
    *(OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, MemoryError, OverflowError, struct.error),
    *(zlib.error, zipfile.BadZipFile),
)


def parse_index(data: bytes, path: Path) -> ShardIndex:
    """The index whose file `path` holds `data`. Raises DataError where it is damaged."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        index = ShardIndex(tar_size=int(arrays.pop("tar_size")), **arrays)
        _check_tables(index)
    except _DAMAGED as error:
        raise _unreadable(path, error) from error
    return index


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"index {path} cannot be read: {error}", hint=f"run `umt-data index {path.parent} --force`")


def _check_tables(index: ShardIndex) -> None:
    """Raises ValueError where no scan of a tar can have given these tables."""
    texts, numbers = (index.keys, index.suffixes), (index.starts, index.offsets, index.sizes)
    of_types = all(table.dtype.kind == "S" for table in texts) and all(table.dtype == np.int64 for table in numbers)
    if not of_types or index.crcs.dtype != np.uint32 or {table.ndim for table in (*texts, *numbers, index.crcs)} != {1}:
        raise ValueError("its tables are of other types")
    members = len(index.suffixes)
    same = len(index.offsets) == len(index.sizes) == len(index.crcs) == members
    if len(index.starts) != len(index.keys) + 1 or int(index.starts[-1]) != members or not same:
        raise ValueError("its tables differ in length")
    if index.starts[0] != 0 or (index.starts[1:] <= index.starts[:-1]).any():
        raise ValueError("its samples do not follow one another")
    if members and (min(index.offsets.min(), index.sizes.min()) < 0 or (_ends(index) > index.tar_size).any()):
        raise ValueError("it names bytes that the tar does not have")
    for table in texts:
        b"\0".join(table.tolist()).decode()  # UnicodeDecodeError is a ValueError


def _ends(index: ShardIndex) -> NDArray[np.uint64]:
    """Where each member ends; in unsigned numbers, whose sum cannot overflow."""
    return index.offsets.astype(np.uint64) + index.sizes.astype(np.uint64)


def read_members(tar: Path, members: Iterable[Member]) -> dict[str, bytes]:
    """The bytes of `members` of `tar`, by suffix; from a store in few requests (`fetch.read_ranges`).

    Raises DataError where they no longer match their CRC-32, or `tar` cannot be read; MachineError where that is not
    its own fault.
    """
    wanted = list(members)
    read = _read_local if is_local(tar) else _read_remote
    found: list[bytes] = []
    for _ in range(1 if is_local(tar) else 2):  # from afar they may have come damaged
        try:
            found = read(tar, wanted)
        except OSError as error:
            raise _cannot_be_read(tar, error) from error
        damaged = [m for m, data in zip(wanted, found, strict=True) if len(data) != m.size or zlib.crc32(data) != m.crc]
        if not damaged:
            return {member.suffix: data for member, data in zip(wanted, found, strict=True)}
    raise DataError(
        f"{tar}: member {damaged[0].suffix} at byte {damaged[0].offset} does not match its checksum",
        hint=f"copy or write the shard again; `umt-data verify {tar.parent}` lists all damage",
    )


def _read_local(tar: Path, members: Sequence[Member]) -> list[bytes]:
    def read() -> list[bytes]:
        with tar.open("rb") as file:
            return [_part(file, member) for member in members]

    return reading(tar, read)


def _part(file: IO[bytes], member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)


def _read_remote(tar: Path, members: Sequence[Member]) -> list[bytes]:
    return read_ranges(tar, [(member.offset, member.size) for member in members])


def write_json(path: Path, record: object) -> None:
    """Write JSON that another process may read at any moment."""
    write_whole(path, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, hex."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # (typeshed wants readinto)
