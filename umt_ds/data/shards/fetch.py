"""Reading files wherever they lie, and whose fault it is where one cannot be read. Torch-free.

The law: an error of the *file* (it is not there, is a folder, may not be read, has a name that cannot be) is raised as
the OSError that it is, and costs what is made of the file. An error of the store, network or machine is tried again,
and is then a MachineError, which ends the command. What waits for a store does not count as work: see `clock_stopped`.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TypeVar, cast

from umt_ds.data.shards.back_off import request_slot
from umt_ds.data.shards.storage import (
    Entry,
    as_os_errors,
    is_away,
    is_local,
    is_unmounted,
    list_once,
    look_up,
    patiently,
    read_file,
    read_range,
    tries,
)
from umt_ds.data.shards.store_answers import AGAIN, WrongLengthError, hint_of, said
from umt_ds.distributed.leftovers import own_folder
from umt_ds.environment import temporary_folder
from umt_ds.errors import MachineError
from umt_ds.refused import refused_by_machine

T = TypeVar("T")

PIECE = 4 << 20  # bytes of a request, at most: what is tried again, and what STALL_S is for
# Bytes: ranges that lie nearer to each other come in one request, with what is between them. A GET by s3fs takes 2 ms
# of a core, as much as three more megabytes in one; and S3 serves 5,500 a second below one prefix: with eight requests
# a clip these are 700 clips a second.
REQUEST_COSTS = 256 << 10
STALL_S = 120.0  # for one answer: the stores' own libraries try again for less long
_REQUESTS = 8  # at a time

# What an operating system says of one file. All else is said of its disk, its store, the network or this machine.
_OF_THE_FILE = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EILSEQ),
        *(errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENXIO),
    }
)


def is_its_own(error: OSError, path: Path, *, root: Path | None = None) -> bool:
    """Whether it is the fault of the file at `path` that it cannot be read.

    `root`: the folder that all files come from (default: the file's own). Where it is gone, or empty as the place of a
    mount is while that is away, a file that is not there has nothing to do with it.
    """
    if not is_local(path):
        own = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
        return own and _answers(path.parent if root is None else root)
    if error.errno is None:  # a library's, on what the file holds
        return not isinstance(error, TimeoutError)
    return error.errno in _OF_THE_FILE and not (is_unmounted(path) or (root is not None and is_away(root)))


def _answers(folder: Path) -> bool:
    """Whether a store still has a folder. One that may not be listed is there; a web server need not list any."""
    if str(folder).startswith("http"):
        return True
    try:
        in_time(partial(look_up, folder))
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def reading(path: Path, read: Callable[[], T], *, root: Path | None = None) -> T:
    """What `read` gives of the file at `path`. Raises OSError where the file is at fault, else, after several tries,
    MachineError: see `is_its_own`."""

    def lasts(error: OSError) -> bool:
        return (is_local(path) and isinstance(error, _StallError)) or is_its_own(error, path, root=root)

    try:
        return patiently(read, of=path, lasts=lasts)
    except OSError as error:
        if is_its_own(error, path, root=root):
            raise
        raise not_its_own(path, error) from error


def why_not(error: OSError) -> str:
    """Why a file cannot be read, in words that are the same wherever it lies: some libraries give its place alone."""
    number = error.errno or (errno.ENOENT if isinstance(error, FileNotFoundError) else 0)
    return f"cannot be read: {os.strerror(number) if number else said(error)}"


def not_its_own(path: Path, error: OSError) -> MachineError:
    """The error for a file that cannot be read through no fault of its own."""
    tried = "" if is_local(path) and isinstance(error, _StallError) else f" ({tries(error, of=path)})"
    doing = f"{path} cannot be read{tried}"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        what = f"{doing}: it is not there, and its folder is gone or empty ({error.strerror or error})"
        return MachineError(what, hint=f"mount the disk, or restore the folder or bucket, then {AGAIN}")
    refused = refused_by_machine(error, doing=doing)
    where = "the disk or mount" if is_local(path) else "the store and the network"
    known = None if is_local(path) else hint_of(error)
    hint = known or f"{refused.hint if refused else f'check {where}'}; then {AGAIN}"
    return MachineError(refused.what if refused else f"{doing}: {said(error)}", hint=hint)


# ---------------------------------------------------------------- time


@contextmanager
def clock_stopped() -> Iterator[None]:
    """The time that is granted to a piece of work (`signal.setitimer`, set by who grants it) does not run meanwhile."""
    left_s, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        yield
    finally:
        if left_s:
            signal.setitimer(signal.ITIMER_REAL, left_s)


class _StallError(TimeoutError):
    """No answer in time: a library that waits for ever, or has tried again all the time."""


def in_time(read: Callable[[], T], *, stall_s: float | None = None) -> T:
    """What `read` gives. Raises OSError where it takes longer than `stall_s` (default: STALL_S); its thread is then
    left to itself."""
    limit_s = STALL_S if stall_s is None else stall_s
    answer: Future[T] = Future()

    def ask() -> None:
        try:
            answer.set_result(read())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(timeout=limit_s)
    except TimeoutError as error:
        if answer.done():
            raise
        raise _StallError(f"no answer within {limit_s:g} s") from error


# ---------------------------------------------------------------- files


def read_whole(path: Path, *, root: Path | None = None) -> bytes:
    """All bytes of a file. Raises OSError and MachineError as `reading` does."""
    if is_local(path):
        return reading(path, path.read_bytes, root=root)
    with clock_stopped():
        return reading(path, lambda: in_time(partial(read_file, path)), root=root)


def read_part(path: Path, offset: int, size: int) -> bytes:
    """`size` bytes of a file from `offset` on. Raises OSError and MachineError as `reading` does."""
    if not is_local(path):
        return _read_long(path, offset, size)

    def read() -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    return reading(path, read)


def read_through(path: Path) -> None:
    """Read a file of a disk to its end. Raises OSError, also where it stands still."""
    with in_time(partial(path.open, "rb")) as file:
        while in_time(partial(file.read, PIECE)):
            pass


def names_in(folder: Path) -> list[str]:
    """What lies directly in a folder; in a store, the files. Raises OSError and MachineError as `reading` does."""
    if is_local(folder):
        return reading(folder, partial(os.listdir, folder))
    with clock_stopped():
        return list(reading(folder, lambda: in_time(partial(_list, folder))))


def _list(folder: Path) -> dict[str, int]:
    with as_os_errors():
        return list_once(folder)


def read_piece(path: Path, offset: int, size: int, *, root: Path | None = None) -> bytes:
    """Exactly `size` bytes of a file in a store, in one request. Raises OSError and MachineError as `reading` does."""

    def read() -> bytes:
        data = in_time(partial(read_range, path, offset, size))
        if len(data) > size:  # a web server that knows no ranges sends all
            data = data[offset : offset + size]
        if len(data) != size:
            raise WrongLengthError(len(data), size, at=f" at byte {offset}")
        return data

    with clock_stopped(), request_slot():
        return reading(path, read, root=root)


def read_ranges(path: Path, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes of (offset, size) in a file of a store, in the order asked.

    A request costs about as much as REQUEST_COSTS more bytes, so ranges nearer than that come together.
    Raises OSError and MachineError as `reading` does.
    """
    runs = list(together(ranges))
    found: dict[tuple[int, int], bytes] = {}
    with clock_stopped(), ThreadPoolExecutor(_REQUESTS) as pool:
        pieces = [pool.submit(_read_long, path, start, end - start) for start, end, _ in runs]
        for (start, _, inside), piece in zip(runs, pieces, strict=True):
            data = piece.result()
            found |= {(offset, size): data[offset - start : offset - start + size] for offset, size in inside}
    return [found[one] for one in ranges]


def together(
    ranges: Iterable[tuple[int, int]], *, max_gap: int | None = None
) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """(start, end, the (offset, size) within) of what comes together: as long as PIECE, or as its only range.

    max_gap: bytes between two ranges that come together; None: REQUEST_COSTS.
    """
    widest = REQUEST_COSTS if max_gap is None else max_gap
    start, end, inside = 0, 0, list[tuple[int, int]]()
    for offset, size in sorted(set(ranges)):
        if inside and (offset - end > widest or max(end, offset + size) - start > PIECE):
            yield start, end, inside
            inside = []
        if not inside:
            start, end = offset, offset
        end = max(end, offset + size)
        inside.append((offset, size))
    if inside:
        yield start, end, inside


def _read_long(path: Path, offset: int, size: int) -> bytes:
    """A range of any length, by requests of at most PIECE bytes."""
    ends = range(offset, offset + size, PIECE)
    return b"".join(read_piece(path, start, min(PIECE, offset + size - start)) for start in ends)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file to read forward: on a disk as it is; in a store each byte comes once, however long it takes.

    Raises OSError and MachineError as `reading` does.
    """
    if is_local(path):
        with reading(path, lambda: path.open("rb")) as file:
            yield file
        return
    size = _entry(path).size
    if size is None:
        yield io.BytesIO(read_whole(path))
        return
    with io.BufferedReader(cast(io.RawIOBase, _Ranges(path, size)), PIECE) as buffered:
        yield cast(IO[bytes], buffered)


class _Ranges(io.RawIOBase):
    """A file of a store by ranges."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__()
        self._path, self._size, self._at = path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]
        size = max(0, min(len(into), PIECE, self._size - self._at))
        if size:
            into[:size] = read_piece(self._path, self._at, size)
            self._at += size
        return size


def size_of(path: Path) -> int:
    """Bytes of a file. Raises OSError and MachineError as `reading` does."""
    if is_local(path):
        return reading(path, lambda: path.stat().st_size)
    size = _entry(path).size
    return len(read_whole(path)) if size is None else size


def _entry(path: Path, *, root: Path | None = None) -> Entry:
    with clock_stopped():
        return reading(path, lambda: in_time(partial(look_up, path)), root=root)


@contextmanager
def local_copy(path: Path, *, root: Path | None = None) -> Iterator[Path]:
    """`path` itself if it is local, or a folder, else a copy that is gone afterwards.

    The copy has all the bytes that the store says the file has. Raises OSError and MachineError as `reading` does.
    """
    entry = None if is_local(path) else _entry(path, root=root)
    if entry is None or entry.is_folder:
        yield path
        return
    with _temporary_folder(path) as folder:
        copy = folder / f"copy{path.suffix[:20]}"  # the name itself may be longer than a disk takes
        with clock_stopped():
            for offset, data in _pieces(path, entry.size if entry.in_ranges else None, root=root):
                _write(copy, offset, data, of=path)
        yield copy


def _pieces(path: Path, size: int | None, *, root: Path | None) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of a file, so that a passing error costs a piece, and a file of any size fits into memory."""
    if size is None:  # a web server that does not say, or knows no ranges
        yield 0, read_whole(path, root=root)
        return
    for offset in range(0, max(size, 1), PIECE):
        yield offset, read_piece(path, offset, min(PIECE, size - offset), root=root) if size else b""


@contextmanager
def _temporary_folder(of: Path) -> Iterator[Path]:
    try:
        folder = TemporaryDirectory(dir=own_folder(), ignore_cleanup_errors=True)
    except OSError as error:
        raise _no_room(of, temporary_folder(), error) from error
    with folder as name:
        yield Path(name)


def _write(copy: Path, offset: int, data: bytes, *, of: Path) -> None:
    def write() -> None:
        with copy.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(data)

    try:
        patiently(write)
    except OSError as error:
        raise _no_room(of, copy.parent, error) from error


def _no_room(path: Path, folder: Path, error: OSError) -> MachineError:
    doing = f"{path} cannot be copied to {folder}"
    refused = refused_by_machine(error, doing=doing)
    hint = refused.hint if refused else "TMPDIR=FOLDER has temporary files elsewhere"
    return MachineError(f"{doing}: {error.strerror or error}", hint=f"{hint}; then {AGAIN}")
