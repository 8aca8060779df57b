"""What an operating system refuses (memory, space, files, processes), as one error with the limit and what to do."""

from __future__ import annotations

import errno
import os
import re
import resource
import traceback
from collections.abc import Callable
from pathlib import Path

from umt_ds.errors import MachineError


def refused_by_machine(error: BaseException, *, doing: str) -> MachineError | None:
    """A MachineError where the system refused memory, space, files or processes, with its limit; None for all else.

    `doing`: what needed it ("the loader cannot start its workers"). Libraries say it in many types, so the text counts.
    """
    text = _as_said(error)
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError):
        number = errno.ENOMEM
    for numbers, pattern, hint in _REFUSALS:
        if number in numbers or (isinstance(error, (OSError, RuntimeError, ImportError)) and re.search(pattern, text)):
            return MachineError(f"{doing}: {text}", hint=hint())
    return None


def told_of_machine(error: Exception) -> str | None:
    """What a command says at its end of an error that is not its own: of what the machine refused, and else the words
    of the operating system or store (no permission, a disk that fails). None for a bug."""
    refused = refused_by_machine(error, doing="the command cannot go on")
    return str(refused or error) if refused or isinstance(error, OSError) else None


def _as_said(error: BaseException) -> str:
    """One line of what it says: the last of a traceback that torch carries along, else the first; and if it says
    nothing, as MemoryError does, where it was raised."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if lines:
        return lines[-1] if lines[0].startswith("Caught ") else lines[0]
    frames = traceback.extract_tb(error.__traceback__)
    where = (
        f" in {os.path.basename(frames[-1].filename)}, line {frames[-1].lineno}: {frames[-1].line}" if frames else ""
    )
    return f"{type(error).__name__}{where}"


def _shared_memory_hint() -> str:
    try:
        disk = os.statvfs("/dev/shm")
        size = f"has {disk.f_blocks * disk.f_frsize / 1e6:,.0f} MB"
    except OSError:
        size = "is not there"
    return (
        f"/dev/shm {size}, which is too small for this (docker: --shm-size, Kubernetes: a volume of medium Memory): "
        "fewer data.workers or a smaller batch.micro need less of it"
    )


def _files_hint() -> str:
    return (
        f"this process may have {_limit(resource.RLIMIT_NOFILE)} open files: raise it with `ulimit -n 65536`; "
        "fewer data.workers need fewer"
    )


def _processes_hint() -> str:
    return (
        f"this user may have {_limit(resource.RLIMIT_NPROC)} processes and threads (`ulimit -u`), a container or job "
        "perhaps fewer (docker: --pids-limit): raise it, or set fewer data.workers or a smaller OMP_NUM_THREADS"
    )


def _memory_hint() -> str:
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        return (
            f"the address space of this process is limited to {address_space / 1e9:.1f} GB (`ulimit -v`), and torch "
            "takes many times the memory that it uses: `ulimit -v unlimited`"
        )
    return "the machine, container or job is out of memory: fewer data.workers or a smaller batch.micro need less"


def _threads_hint() -> str:
    """A thread needs address space for its stack, and the system says no more than that it cannot be started."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or limit - _address_space_used() > _ROOM_FOR_A_THREAD:
        return _processes_hint()
    return _memory_hint()


def _address_space_used() -> int:
    """Bytes; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _file_size_hint() -> str:
    return (
        f"a file, in shared memory too, may have {_limit(resource.RLIMIT_FSIZE)} bytes here (`ulimit -f`), if its file "
        "system takes that: `ulimit -f unlimited`"
    )


def _limit(which: int) -> str:
    soft, _ = resource.getrlimit(which)
    return "any number of" if soft == resource.RLIM_INFINITY else f"{soft:,}"


_ROOM_FOR_A_THREAD = 64 << 20  # bytes: its stack, mostly of 8 MB, beside what other threads take meanwhile
_FULL = r"No space left on device|Disk quota exceeded"
# numbers of OSErrors, what is said instead, what to do; the first that fits
_REFUSALS: tuple[tuple[frozenset[int], str, Callable[[], str]], ...] = (
    (frozenset(), rf"(shared memory|/dev/shm|torch_\d+_).*({_FULL})", _shared_memory_hint),
    (frozenset({errno.EMFILE, errno.ENFILE}), r"[Tt]oo many open files|0 items of ancdata", _files_hint),
    (frozenset({errno.EAGAIN}), r"can't start new thread|pthread_create|thread creation failed", _threads_hint),
    (frozenset({errno.EFBIG}), r"File too large", _file_size_hint),
    (
        frozenset({errno.ENOMEM}),
        r"(?i)can(no|')t allocate memory|unable to allocate|bad_alloc|failed to map segment",
        _memory_hint,
    ),
    (
        frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS}),
        rf"{_FULL}|No usable temporary directory|AF_UNIX path too long",
        lambda: (
            "free space and inodes (`df -h`, `df -i`), in /dev/shm too (docker: --shm-size); TMPDIR=FOLDER, with a "
            "short path, has temporary files elsewhere"
        ),
    ),
)
