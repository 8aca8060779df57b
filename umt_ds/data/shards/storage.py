"""Where files lie: a folder on disk, or a URL such as s3://bucket/set. Torch-free. The door to fsspec (by UPath).

`as_path` gives both the interface of pathlib.Path; code that keeps to Path's methods works on either. A file is
*published* whole or not at all: on disk by a rename, in an object store because an object appears only when its
upload is complete.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, cast

if TYPE_CHECKING:
    from upath import UPath

from umt_ds import whole_file
from umt_ds.data.shards.back_off import PATIENCE_S, Outage, note_served
from umt_ds.data.shards.store_answers import WrongLengthError, advice_on, passes, said
from umt_ds.distributed.leftovers import own_folder
from umt_ds.distributed.parent import beginning
from umt_ds.errors import ConfigError, MachineError

T = TypeVar("T")

RETRY_PAUSES_S = (0.5, 2.0, 8.0)  # besides what a store's own library tries
_OLD_S = 24 * 3600  # unchanged for so long: its process, on another machine, is gone


def patiently(
    read: Callable[[], T],
    pauses_s: Sequence[float] | None = None,
    *,
    of: Path | None = None,
    lasts: Callable[[OSError], bool] = lambda error: False,
) -> T:
    """What `read` gives. Where it raises OSError it is asked again after each pause; then the last one is raised.

    Mounts go away for seconds and stores answer wrongly now and then: what lasts longer is for the user. `of`: what is
    read; where it lies in a store, its passing faults are waited out, for minutes (`back_off`). `lasts`: of an error
    that no waiting helps.
    """
    pauses = iter(RETRY_PAUSES_S if pauses_s is None else pauses_s)
    outage = None if of is None or is_local(of) else Outage(str(of))
    while True:
        try:
            answer = read()
        except OSError as error:
            if lasts(error):
                raise
            pause_s = outage.next_pause_s(error) if outage and passes(error) else next(pauses, None)
            if pause_s is None:
                raise
            time.sleep(pause_s)
        else:
            if outage is not None:
                note_served()
            return answer


def tries(error: OSError, *, of: Path) -> str:
    """How long `patiently` has tried before it gave up with this error, for messages."""
    minutes = not is_local(of) and passes(error)
    return f"{PATIENCE_S / 60:.0f} minutes" if minutes else f"{len(RETRY_PAUSES_S) + 1} tries"


def is_away(folder: Path) -> bool:
    """Whether a local folder is not there, or empty, as the place of a mount is while that is away."""
    try:
        return is_local(folder) and next(os.scandir(folder), None) is None
    except OSError:
        return True


def is_unmounted(folder: Path) -> bool:
    """Whether a local folder may be on a mount that is away: it, or the nearest folder above it that is there, is
    empty. What is not there beside other files is a mistake in its name, and no waiting helps."""
    if not is_local(folder):
        return False
    there = next((parent for parent in (folder, *folder.absolute().parents) if os.path.isdir(parent)), folder)
    return is_away(there)


def is_url(text: str) -> bool:
    """`s3://bucket/x`, `memory://x`; not `/x`, `x` or `C:\\x`."""
    return "://" in text


def as_path(text: str) -> Path:
    """The folder or file that a user named: a Path, or for a URL an UPath, which behaves as one.

    Raises ConfigError where the library that this kind of URL needs is not installed.
    """
    if not is_url(text):
        return Path(text)
    from upath import UPath

    try:
        found = UPath(text)
        _ = found.fs  # connects nothing; says which library is missing
    except (ImportError, ValueError) as error:
        scheme = text.partition("://")[0]
        raise ConfigError(
            f"{text}: {error}", hint=f"pip install the fsspec library for {scheme}:// (s3: `pip install s3fs`)"
        ) from error
    return cast(Path, found)


def without_own_tries(path: Path) -> Path:
    """A store that asks once: `patiently` tries again with longer pauses, and with other ones in each process."""
    if hasattr(cast("UPath", path).fs, "retries"):  # s3fs: five times, the pauses are the same everywhere
        cast("UPath", path).fs.retries = 1
    return path


def is_local(path: Path) -> bool:
    """Whether `path` is on a disk of this machine (or mounted there)."""
    return isinstance(path, os.PathLike)


def absolute(path: Path) -> Path:
    """The same place named so that any process on any node finds it."""
    return path.resolve() if is_local(path) else path


def common_folder(folders: Sequence[Path]) -> Path:
    """The folder that all of `folders` (absolute) lie in, however deep. Raises ConfigError where there is none."""
    first, *others = folders
    for folder in (first, *first.parents):
        if all(folder == other or folder in other.parents for other in others):
            return folder
    raise ConfigError(f"{', '.join(map(str, folders))} lie in different stores", hint="copy one beside the other")


def publish(finished: Path, target: Path) -> None:
    """Move a finished local file to `target`, where it appears whole. Both on one disk, if `target` is on a disk."""
    if is_local(target):
        whole_file.publish(finished, target)
    else:
        remote = cast("UPath", target)
        _patiently_in_store(target, "written", lambda: remote.fs.put_file(str(finished), remote.path))
        finished.unlink()


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file that other processes may read at any moment."""
    if is_local(path):
        whole_file.write_whole(path, data)
    else:
        _patiently_in_store(path, "written", lambda: path.write_bytes(data))


def sizes_in(folder: Path) -> dict[str, int]:
    """The files directly in `folder` (if it is there) by name, with their sizes in bytes, as they are now.

    Raises OSError of a disk, and MachineError where a store does not answer.
    """
    return list_once(folder) if is_local(folder) else _patiently_in_store(folder, "listed", lambda: list_once(folder))


def list_once(folder: Path) -> dict[str, int]:
    """The same, asked once. Raises whatever errors the store has."""
    if is_local(folder):
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    remote = cast("UPath", folder)
    remote.fs.invalidate_cache()  # another machine may have written since
    try:
        found = remote.fs.ls(remote.path, detail=True)
    except FileNotFoundError:  # an object store has no empty folders
        return {}
    return {file["name"].rpartition("/")[2]: int(file["size"] or 0) for file in found if file["type"] == "file"}


def has_file(path: Path) -> bool:
    """Whether there is a file. Raises OSError where a store does not answer."""
    if is_local(path):
        return path.is_file()
    remote = cast("UPath", path)
    with as_os_errors():
        try:
            return bool(remote.fs.info(remote.path))
        except FileNotFoundError:
            return False


@dataclass(frozen=True)
class Entry:
    """What a store has under a name."""

    is_folder: bool
    size: int | None  # bytes of a file; None: a web server need not say
    in_ranges: bool = True  # whether a part of it can be asked for


def look_up(path: Path) -> Entry:
    """What a store has at `path`, asked anew. Raises OSError, whatever errors the store has of its own."""
    remote = cast("UPath", path)
    is_web = _is_web(path)
    with as_os_errors():
        if is_web and not path.suffix and remote.is_dir():  # a page of links, which is a file there as well
            return Entry(is_folder=True, size=None)
        remote.fs.invalidate_cache()  # it may have been listed before
        try:
            info = remote.fs.info(remote.path)
        except FileNotFoundError as error:
            if is_web and getattr(error.__cause__, "status", None) not in (404, 410):
                raise OSError(f"{path}: {error.__cause__!r}") from error  # fsspec says so of any failure
            raise
    size = info.get("size")
    in_ranges = not is_web or bool(info.get("partial"))
    return Entry(info.get("type") == "directory", None if size is None else int(size), in_ranges)


def kind_of(path: Path) -> Literal["file", "folder"] | None:
    """What lies at `path`; None: nothing. Raises MachineError where a store does not answer."""
    if is_local(path) or _is_web(path):
        return "folder" if path.is_dir() else "file" if path.exists() else None
    try:
        entry = _patiently_in_store(path, "looked up", lambda: look_up(path))
    except FileNotFoundError:
        return None
    return "folder" if entry.is_folder else "file"


def _is_web(path: Path) -> bool:
    return str(path).startswith("http")


def sizes_of(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """The sizes in bytes of files in `folder` by name, as they are now; those that are not there are left out.

    Raises OSError, whatever errors the store has of its own.
    """
    with as_os_errors():
        # a web server has no listing that one can rely on
        there = {} if _is_web(folder) else list_once(folder)
        sizes = {name: there[name] for name in names if name in there}
        if is_local(folder):
            return sizes
        absent = [name for name in names if name not in there]  # a listing may be cut: ask for each of them
        with ThreadPoolExecutor(16) as pool:
            found = zip(absent, pool.map(partial(_size_of, folder), absent), strict=True)
            return sizes | {name: size for name, size in found if size >= 0}


def _size_of(folder: Path, name: str) -> int:
    """-1: the store does not have it."""
    remote = cast("UPath", folder / name)
    remote.fs.invalidate_cache()  # else it looks into the listing
    try:
        return int(remote.fs.info(remote.path)["size"] or 0)
    except FileNotFoundError:
        return -1


def read_file(path: Path) -> bytes:
    """All bytes of a file. Raises OSError, whatever errors the store has, and for an answer of a wrong length."""
    if is_local(path):
        return path.read_bytes()
    remote = cast("UPath", path)
    with as_os_errors():
        data: bytes = remote.fs.cat_file(remote.path)
        remote.fs.invalidate_cache()
        size = remote.fs.info(remote.path).get("size")  # a web server need not say
    if size is not None and len(data) != size:
        raise WrongLengthError(len(data), size)
    return data


def read_range(path: Path, offset: int, size: int) -> bytes:
    """Bytes of a file in a store; fewer where it ends. Raises OSError, whatever errors the store has of its own."""
    remote = cast("UPath", path)
    with as_os_errors():
        data: bytes = remote.fs.cat_file(remote.path, start=offset, end=offset + size)
    return data


@contextmanager
def as_os_errors() -> Iterator[None]:
    """botocore, aiohttp and the others raise what they like, and much of it is no OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def _patiently_in_store(path: Path, doing: str, ask: Callable[[], T]) -> T:
    """What a store answers. Raises FileNotFoundError as it is, and MachineError where it keeps failing."""

    def answer() -> T:
        with as_os_errors():
            return ask()

    def is_absent(error: OSError) -> bool:
        return isinstance(error, FileNotFoundError)

    try:
        return patiently(answer, of=path, lasts=is_absent)
    except OSError as error:
        if is_absent(error):
            raise
        what = f"{path} cannot be {doing} ({tries(error, of=path)}): {said(error)}"
        raise MachineError(what, hint=advice_on(error)) from error


def read_files(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """The bytes of files in `folder` by name. From an object store many at a time."""
    if is_local(folder):
        return {name: (folder / name).read_bytes() for name in names}
    remote = cast("UPath", folder)
    paths = {f"{remote.path.rstrip('/')}/{name}": name for name in names}
    read = partial(remote.fs.cat, list(paths))
    found: dict[str, bytes] = _patiently_in_store(folder, "read", read) if paths else {}
    return {paths[path]: data for path, data in found.items()}


@contextmanager
def scratch_for(folder: Path, *, alone: bool = False) -> Iterator[Path]:
    """A local folder to make files in that will be published to `folder`; on its disk, if it is on a disk.

    Its name, `.making-HOST-PID-…`, says whose it is. alone: nobody else works in `folder`, so what killed processes
    left there is removed (`remove_half_made`).
    """
    beside = folder if is_local(folder) else own_folder()
    if alone and is_local(folder):
        remove_half_made(folder)
    scratch = Path(tempfile.mkdtemp(prefix=f".making-{socket.gethostname()}-{os.getpid()}-", dir=beside))
    try:
        yield scratch
    finally:
        try:
            shutil.rmtree(scratch, ignore_errors=True)
        except KeyboardInterrupt:  # in the middle of it
            shutil.rmtree(scratch, ignore_errors=True)
            raise


def remove_half_made(folder: Path) -> None:
    """Remove the folders that killed processes left: `.making-HOST-PID-…` of one that is known to be gone, any other
    in which nothing has changed for a day. For whoever works in the folder alone."""
    for scratch in folder.glob(".making-*"):
        maker = re.fullmatch(r"\.making-(.+)-(\d+)-[^-]+", scratch.name)
        if maker is not None and maker[1] == socket.gethostname():
            left = beginning(int(maker[2])) is None
        else:
            left = time.time() - _last_change(scratch) > _OLD_S
        if left:
            shutil.rmtree(scratch, ignore_errors=True)


def _last_change(folder: Path) -> float:
    changes = [time.time()]
    with suppress(OSError):
        changes = [path.stat().st_mtime for path in (folder, *folder.iterdir())]
    return max(changes)


def objects_below(folder: Path) -> list[str]:
    """All files below a folder of a store, as paths from there. Raises MachineError where the store does not answer."""
    remote = cast("UPath", folder)
    start = remote.path.rstrip("/") + "/"
    found = _patiently_in_store(folder, "listed", lambda: remote.fs.find(remote.path))
    return [path.removeprefix(start) for path in found]


def free_bytes(folder: Path) -> int | None:
    """Room on the disk of `folder` (or of the nearest folder above that exists); None where that has no meaning."""
    if not is_local(folder):
        return None
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free
