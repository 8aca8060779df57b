"""The files of one shard: a plain WebDataset tar and its index."""

from __future__ import annotations

import errno
import hashlib
import re
import tarfile
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from data_prep.clip import Sample
from data_prep.spool import each_member
from umt_ds.data.shards.manifest import ShardEntry
from umt_ds.data.shards.records import Member, ShardIndex, index_path, sha256_of
from umt_ds.data.shards.storage import scratch_for
from umt_ds.data.shards.tars import index_of_members
from umt_ds.errors import ConfigError, MachineError

_MAX_NAME = 200  # bytes: a file's name has at most 255, with number, suffix and what is added while it is written
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_name(name: str) -> None:
    """Raises ConfigError for a name by which shards cannot be called well."""
    if why := _is_no_name(name):
        raise ConfigError(f"--name {name!r:.100} {why}", hint="give --name: letters, digits, - and _ are safe")


def _is_no_name(name: str) -> str | None:
    """Why shards cannot be called so: their names are also words of shells, Slurm and WebDataset."""
    if not name or Path(name).name != name or "\\" in name:
        return "is no file name"
    if name.startswith(("-", ".")):
        return f"begins with {name[0]!r}: a shell takes such files for options, or hides them"
    if re.search(r"[{}]|::", name):
        return "has braces or :: in it, which WebDataset takes for several names"
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        return "is not one line of text"
    if len(name.encode()) > _MAX_NAME:
        return f"has {len(name.encode())} bytes, more than {_MAX_NAME}"
    return None


@contextmanager
def new_shard(tar: Path, samples: Iterable[Sample], *, scratch: Path) -> Iterator[tuple[Path, ShardEntry] | None]:
    """Make what `tar` will be of `samples`, with its index beside it, in a new folder below `scratch` (for a remote
    `tar` in a temporary one), and its entry; None if there is not one sample. Whoever takes it moves it from there.

    The same samples give the same bytes. Raises MachineError when the disk is full, also when it is being moved.
    """
    with disk_full_is_an_error(tar), scratch_for(scratch) as folder:
        made = folder / tar.name
        index, sha256 = _write_tar(made, samples)
        if not len(index):
            yield None
            return
        index.save(index_path(made))
        yield made, ShardEntry(tar.name, len(index), index.tar_size, sha256, sha256_of(index_path(made)))


def _write_tar(path: Path, samples: Iterable[Sample]) -> tuple[ShardIndex, str]:
    """The index and the sha256 of a tar with `samples`: nothing is read again for them."""
    keys, starts, members = list[str](), [0], list[Member]()
    with path.open("wb") as file:
        tar = _Tar(file)
        for sample in samples:
            members += [tar.add(sample.key, *member) for member in each_member(sample.members)]
            keys.append(sample.key)
            starts.append(len(members))
        tar.end()
    return index_of_members(tar.size, keys, starts, members), tar.sha256.hexdigest()


class _Tar:
    """A tar as WebDataset writes it, with its hash. No clock, user or folder decides a byte of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size, self.sha256 = 0, hashlib.sha256()

    def add(self, key: str, suffix: str, size: int, content: Iterable[bytes]) -> Member:
        """One member of a sample; where it lies."""
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size, info.mode = size, 0o444
        info.uname = info.gname = "bigdata"  # WebDataset's own
        self._write(info.tobuf(tarfile.PAX_FORMAT, "utf-8"))  # PAX: keys of any length (USTAR stops at 255)
        offset, crc = self.size, 0
        for piece in content:
            self._write(piece)
            crc = zlib.crc32(piece, crc)
        assert self.size == offset + size, f"{info.name} has another size than it said"
        self._fill(tarfile.BLOCKSIZE)
        return Member(suffix, offset, size, crc)

    def end(self) -> None:
        """Two empty blocks, and the rest of a record."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._fill(tarfile.RECORDSIZE)

    def _fill(self, unit: int) -> None:
        self._write(bytes(-self.size % unit))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.sha256.update(data)
        self.size += len(data)


@contextmanager
def disk_full_is_an_error(path: Path) -> Iterator[None]:
    """Say what a full disk means for the user; other I/O errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise MachineError(
            f"no room to write {path}: {error.strerror}",
            hint="finished shards are kept: make room and give the same command again",
        ) from error
