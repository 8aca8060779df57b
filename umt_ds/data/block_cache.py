"""A bounded folder of blocks on a node's disk, shared by all its ranks, workers and runs. Only ever speed.

Blocks are dealt by a hash of their name to sets, each a folder with its share of the bound. To make room, a process
looks into one set only and deletes what was used longest ago there, so nobody keeps accounts of the whole and nothing
is left wrong by a kill. A block appears by a rename; one that vanishes or cannot be written is simply not there.
"""

from __future__ import annotations

import os
import shutil
import socket
import zlib
from contextlib import suppress
from pathlib import Path

_SET_BYTES = 64 << 20  # small enough to list in less time than a block takes to arrive, large enough to fill evenly


class BlockCache:
    """Blocks by name. At most `max_bytes` in `folder`, and besides them what is being written at the moment.

    A folder has one bound: opening it with another one drops what was laid out for the first.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._num_sets = max(1, max_bytes // _SET_BYTES)
        self._max_set_bytes = max_bytes // self._num_sets
        self.folder = folder / f"sets-{self._num_sets}"
        for other in folder.glob("sets-*"):
            if other != self.folder and _is_layout(other):
                shutil.rmtree(other, ignore_errors=True)

    def has(self, name: str) -> bool:
        """Whether the block is there now."""
        return os.path.isfile(self._path(name))  # unlike Path's it raises nothing, whatever the disk says

    def get(self, name: str) -> bytes | None:
        """The block, which is now the one used last; None where it is not there."""
        try:
            with self._path(name).open("rb") as file:
                with suppress(OSError):  # another user's: it may be read, and its owner's use keeps it
                    os.utime(file.fileno())
                return file.read()
        except OSError:
            return None

    def put(self, name: str, data: bytes) -> str | None:
        """Keep a block, in the place of those of its set that were used longest ago. Why it cannot be kept, or None."""
        if len(data) > self._max_set_bytes:
            return None
        path = self._path(name)
        partial = path.with_name(f"{name}.{socket.gethostname()}-{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)  # no fsync: what a power cut leaves of it is found by its members' CRCs
            self._make_room(path.parent)  # counts the partial ones too, of others as well
            os.replace(partial, path)
        except FileNotFoundError:  # another process made room here, or dropped the whole layout
            return None
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            return str(error)
        return None

    def drop(self, name: str) -> None:
        """Forget a block."""
        with suppress(OSError):
            self._path(name).unlink()

    def _path(self, name: str) -> Path:
        return self.folder / f"{zlib.crc32(name.encode()) % self._num_sets:05d}" / name

    def _make_room(self, folder: Path) -> None:
        """Raises OSError where what fills the set is not ours to delete."""
        used: list[tuple[int, int, str]] = []  # time of last use, bytes, path
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False):
                        stat = entry.stat()
                        used.append((stat.st_mtime_ns, stat.st_size, entry.path))
        excess = sum(size for _, size, _ in used) - self._max_set_bytes
        for _, size, path in sorted(used)[:-1]:  # not what has just been written
            if excess <= 0:
                return
            with suppress(PermissionError):
                with suppress(FileNotFoundError):
                    os.unlink(path)
                excess -= size
        if excess > 0:
            raise OSError(f"{folder} is full of blocks that another user keeps")


def _is_layout(folder: Path) -> bool:
    """Whether a folder is a cache's: somebody's own may be called sets-2 as well."""
    num_sets = folder.name.removeprefix("sets-")
    try:
        inside = os.listdir(folder)
    except OSError:
        return False
    return num_sets.isdecimal() and all(
        len(name) == 5 and name.isdecimal() and int(name) < int(num_sets) for name in inside
    )
