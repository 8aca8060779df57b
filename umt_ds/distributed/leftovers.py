"""A temporary folder of this process, and what processes that were killed have left of theirs. Torch-free.

    $TMPDIR/umtp-x1y2z3ab/           locked as long as the process, or one that it forked, lives
                         host-NAME   whose process ids the next ones are
                         4711        when process 4711 began, which makes shared memory in files named torch_4711_…
    /dev/shm/sem.umtp-x1y2z3ab-…     semaphores

However a process ends, the kernel lets go of its lock. So a folder that can be locked belongs to no process, and the
next process that wants one of its own removes it with all that bears its name.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import util
from multiprocessing.process import current_process
from pathlib import Path

from umt_ds.distributed.parent import beginning
from umt_ds.environment import temporary_folder

_PREFIX = "umtp-"  # short: sockets lie in the folder, and their paths may have 107 bytes
_SHARED_MEMORY = Path("/dev/shm")

_own: Path | None = None
_making = threading.Lock()


def own_folder() -> Path:
    """This process's folder, and that of those which it forks; gone when it ends. What others left is removed first.

    multiprocessing puts its sockets there and names its semaphores after it. Raises OSError where none can be made.
    """
    global _own
    with _making:
        if _own is None:
            remove_leftovers()
            _own = _make()
            settings = current_process()._config  # type: ignore[attr-defined]  # seen in Python 3.11 to 3.14
            settings["tempdir"], settings["semprefix"] = str(_own), f"/{_own.name}"
            # as multiprocessing removes its own folder: after its children, and not in a fork
            util.Finalize(None, _remove, args=(_own,), exitpriority=-100)
        return _own


def note_shared_memory() -> None:
    """This process, or fork, is about to make shared memory through torch: a kill in the middle leaves it behind."""
    (own_folder() / str(os.getpid())).write_text(str(beginning(os.getpid())))


def remove_leftovers() -> None:
    """Remove what dead processes of this user left on this machine."""
    for folder in temporary_folder().glob(f"{_PREFIX}*"):
        with suppress(OSError), _locked(folder):
            if folder.lstat().st_uid != os.getuid():
                continue
            if _host(folder).exists():
                _remove(folder)
            else:
                folder.rmdir()  # if it is empty: its maker did not come further, or will make another


def _make() -> Path:
    """A new folder, locked until the end."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=temporary_folder()))
        # FileNotFoundError: another process found it before it was locked
        with suppress(FileNotFoundError):
            file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)  # never closed
            with suppress(OSError):  # a file system without locks: then no process can lock the folder, and it stays
                fcntl.flock(file, fcntl.LOCK_EX)
            _host(folder).touch()
            return folder


def _host(folder: Path) -> Path:
    """What says on which machine a folder was made; a temporary folder may be shared by several."""
    return folder / f"host-{socket.gethostname()}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Raises OSError where a living process holds it."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(file)


def _remove(folder: Path) -> None:
    with suppress(OSError):  # another process empties the temporary folder at the same time
        for file in _shared_by(folder):
            if file.lstat().st_uid == os.getuid():
                file.unlink()
    with suppress(OSError):
        for inside in folder.iterdir():
            if inside.is_dir():
                shutil.rmtree(inside, ignore_errors=True)
            elif inside != _host(folder):  # last: who finds the rest without it, after a kill in between, leaves it
                inside.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _shared_by(folder: Path) -> list[Path]:
    """The files in /dev/shm of those who used the folder."""
    shared = list(_SHARED_MEMORY.glob(f"sem.{folder.name}-*"))
    for note in folder.glob("[0-9]*"):
        # a number may be in use again; one that has let go of the lock may not quite have ended
        if note.name.isdecimal() and beginning(int(note.name)) in (None, note.read_text()):
            shared += _SHARED_MEMORY.glob(f"torch_{note.name}_*")
    return shared
