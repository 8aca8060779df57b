"""A bounded folder of blocks on a node's disk, shared by all its ranks, workers and runs. Only ever speed.

    FOLDER/sets-44/cache-of-umt_ds   the marker: this folder is ours. Locked, shared, as long as a process uses it
    FOLDER/sets-44/00017/HASH-3      a block

Blocks are dealt by a hash of their name to sets, each a folder with its share of the bound. To make room, a process
looks into one set only and deletes what was used longest ago there, so no process keeps accounts of the whole and a
kill leaves nothing wrong. A block appears by a rename; one that vanishes or cannot be written is simply not there.
The user may have named a folder with files of his own: only blocks, below a marker, are ever deleted.
"""

from __future__ import annotations

import fcntl
import os
import re
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from umt_ds.whole_file import partial_beside

_SET_BYTES = 64 << 20  # small enough to list in less time than a block takes to arrive, large enough to fill evenly
_MARKER = "cache-of-umt_ds"
_BLOCK = re.compile(r"[0-9a-f]{64}-\d+(\..+-\d+\.partial)?")  # sha256 of a file, number; while it is written


class BlockCache:
    """Blocks by name, `SHA256-NUMBER`. At most `max_bytes` in `folder`, and besides them what is being written at the
    moment.

    Each bound has a layout of its own in the folder. Opening one drops those of other bounds that no process uses.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._num_sets = max(1, max_bytes // _SET_BYTES)
        self._max_set_bytes = max_bytes // self._num_sets
        self.folder = _layout(folder, self._num_sets)
        self._in_use: weakref.finalize[Any, BlockCache] | None = None
        with suppress(OSError):
            self._lay_out()
        with suppress(OSError):
            for other in folder.glob("sets-*"):
                if other != self.folder:
                    _remove_unused(other)

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
        partial = partial_beside(path)
        try:
            if self._in_use is None or not path.parent.is_dir():
                self._lay_out()
                path.parent.mkdir(exist_ok=True)
            partial.write_bytes(data)  # no fsync: what a power cut leaves of it is found by its members' CRCs
            self._make_room(path.parent)  # counts the partial ones too, of others as well
            os.replace(partial, path)
        except FileNotFoundError:  # another process made room here, or somebody deletes the whole folder
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

    def _lay_out(self) -> None:
        """Make the folder with its marker, and hold the marker until this object, and those of forks, are gone.

        Raises OSError: where it cannot, or a folder of this name is not ours.
        """
        marker = self.folder / _MARKER
        if not marker.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            if _is_not_ours(self.folder):
                raise OSError(f"{self.folder} holds files that are not this cache's")
            marker.touch()
        file = os.open(marker, os.O_RDONLY | os.O_CLOEXEC)
        held = weakref.finalize(self, os.close, file)
        _share(file)
        if not os.path.samestat(os.stat(marker), os.fstat(file)):
            raise OSError(f"{self.folder} is being removed just now")
        if self._in_use is not None:
            self._in_use()
        self._in_use = held

    def _make_room(self, folder: Path) -> None:
        """Raises OSError where what fills the set is not ours to delete."""
        used: list[tuple[int, int, str]] = []  # time of last use, bytes, path
        for entry in _blocks_in(folder):
            with suppress(FileNotFoundError):
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


def _blocks_in(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if _BLOCK.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                yield entry


def _layout(folder: Path, num_sets: int) -> Path:
    """sets-44; beside a folder or file that this version did not make, sets-44-umt."""
    layout = folder / f"sets-{num_sets}"
    return folder / f"{layout.name}-umt" if _is_not_ours(layout) else layout


def _is_not_ours(layout: Path) -> bool:
    try:
        return bool(os.listdir(layout)) and not (layout / _MARKER).is_file()  # it is there before anything else
    except NotADirectoryError:
        return True
    except OSError:
        return False


def _share(marker: int) -> None:
    """Raises BlockingIOError where another process is removing the layout."""
    try:
        fcntl.flock(marker, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks: then no process can lock it to remove it either
        return


def _remove_unused(layout: Path) -> None:
    """Remove the blocks of an unused layout of ours, and the folders that are then empty."""
    with suppress(OSError), _locked_alone(layout / _MARKER):
        for folder in layout.iterdir():
            if re.fullmatch(r"\d{5,}", folder.name) and folder.is_dir() and not folder.is_symlink():
                for block in _blocks_in(folder):
                    os.unlink(block)
                with suppress(OSError):  # a user's file lies there too
                    folder.rmdir()
        if os.listdir(layout) == [_MARKER]:  # last: after a kill in between, the next one goes on
            (layout / _MARKER).unlink()
            layout.rmdir()


@contextmanager
def _locked_alone(marker: Path) -> Iterator[None]:
    """Raises OSError where a process uses it, where there is no marker, and where the file system has no locks."""
    file = os.open(marker, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(file)
