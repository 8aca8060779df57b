"""Where the index of a set lies on this machine, once for all processes of a node.

    a set on a disk        OUT/index.arrow itself
    a set in a store       FOLDER/SHA256.arrow, fetched by the first process that needs it, while the others wait
    a set without one      FOLDER/made-HASH.arrow, made of its shards' indexes in the same way: tars that were indexed
                           before there was such a file (`umt-data upgrade` makes it once)

What has not been used for a month is removed when another is put there.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from umt_ds.data.shards.fetch import local_copy, read_whole, why_not
from umt_ds.data.shards.manifest import Manifest, SetFile, ShardEntry
from umt_ds.data.shards.records import ShardIndex, index_path, parse_index, sha256_of
from umt_ds.data.shards.set_index import INDEX, SetIndex, write_index
from umt_ds.data.shards.storage import is_local, patiently, publish, scratch_for
from umt_ds.environment import temporary_folder
from umt_ds.errors import DataError, MachineError

log = logging.getLogger(__name__)

_UNUSED_S = 30 * 24 * 3600
_WORTH_SAYING = 1000  # shards, whose indexes take seconds to read


def publish_index(folder: Path, entries: Sequence[ShardEntry]) -> SetFile:
    """Make `folder/index.arrow` of the indexes beside these shards, and what the manifest says of it.

    Raises DataError where one of them is missing or is not the one of its entry.
    """
    with scratch_for(folder, alone=True) as scratch:
        told = make_index(scratch, folder, entries)
        publish(scratch / INDEX, folder / INDEX)
    return told


def make_index(into: Path, folder: Path, entries: Sequence[ShardEntry]) -> SetFile:
    """The same in the local folder `into`, for whoever moves it from there."""
    write_index(into / INDEX, (_shard_index(folder, entry) for entry in entries))
    return set_file_of(into / INDEX)


def set_file_of(path: Path) -> SetFile:
    """What the manifest says of a local file."""
    return SetFile(path.stat().st_size, sha256_of(path))


def node_folder() -> Path:
    """Where this user's processes on this machine keep indexes of sets."""
    return temporary_folder() / f"umt-index-{os.getuid()}"


def open_index(folder: Path, manifest: Manifest) -> SetIndex:
    """The index of a set, mapped. A damaged copy of this node's is dropped and made anew once.

    Raises DataError where it is missing, damaged or of another set, MachineError where this machine has no room for it.
    """
    hint = _again(folder)
    path = _index_file(folder, manifest)
    try:
        return SetIndex(path, manifest.shards, hint=hint)
    except DataError:
        if path.parent != node_folder():
            raise
    path.unlink(missing_ok=True)
    return SetIndex(_index_file(folder, manifest), manifest.shards, hint=hint)


def _index_file(folder: Path, manifest: Manifest) -> Path:
    if manifest.index is not None:
        return set_file(folder, INDEX, manifest.index, hint=_again(folder))
    name = hashlib.sha256("".join(entry.index_sha256 for entry in manifest.shards).encode()).hexdigest()
    return _once_a_node(f"made-{name}.arrow", lambda at: _make(at, folder, manifest))


def _again(folder: Path) -> str:
    return f"restore it, or let `umt-data upgrade {folder}` make it again of the indexes beside the shards"


def set_file(folder: Path, name: str, told: SetFile, *, hint: str, whole: bool = False) -> Path:
    """A file of the whole set where this machine can map it: itself, or once a node a copy of what lies in a store.
    whole: every byte of it is looked at, as of a copy.

    Raises DataError where it is missing or not what the manifest says, MachineError where this machine has no room.
    """
    path = folder / name
    if not is_local(folder):
        return _once_a_node(f"{told.sha256}{path.suffix}", lambda at: _fetch(at, path, told, hint=hint))
    try:
        size = patiently(lambda: path.stat().st_size)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint=hint) from error
    if size != told.bytes:
        raise DataError(f"{path} has {size} bytes, its manifest says {told.bytes}", hint=hint)
    if whole and sha256_of(path) != told.sha256:
        raise DataError(f"{path} is not the file that the manifest names", hint=hint)
    return path


def _once_a_node(name: str, make: Callable[[Path], None]) -> Path:
    """FOLDER/name, made by the first process that asks for it."""
    folder = node_folder()
    path = folder / name
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        with _locked(folder / f"{name}.lock"):
            if path.is_file():
                os.utime(path)
            else:
                _remove_unused(folder)
                for partial in folder.glob(f"{name}.*.partial"):  # of a process that was killed
                    partial.unlink(missing_ok=True)
                make(path)
    except OSError as error:
        raise MachineError(
            f"{path} cannot be made: {error.strerror or error}",
            hint="make room there, or export TMPDIR=… with another folder on a local disk",
        ) from error
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _remove_unused(folder: Path) -> None:
    for path in (*folder.glob("*.arrow"), *folder.glob("*.npy")):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _UNUSED_S:
                path.unlink()


def _fetch(at: Path, path: Path, told: SetFile, *, hint: str) -> None:
    """From a store, once more where it came damaged."""
    for _ in range(2):
        with _copied(path, hint=hint) as copy:
            if sha256_of(copy) == told.sha256:
                shutil.move(copy, at)
                return
    raise DataError(f"{path} is not the file that the manifest names", hint=hint)


@contextmanager
def _copied(path: Path, *, hint: str) -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            copy = stack.enter_context(local_copy(path))
        except OSError as error:  # of this file: what the store or this machine refuses is a MachineError
            raise DataError(f"{path} {why_not(error)}", hint=hint) from error
        yield copy


def _make(at: Path, folder: Path, manifest: Manifest) -> None:
    if len(manifest.shards) >= _WORTH_SAYING:
        log.warning(
            "%s has no %s: one is made of the indexes of its %d shards, on each node anew; `umt-data upgrade %s` makes "
            "it once",
            *(folder, INDEX, len(manifest.shards), folder),
        )
    write_index(at, (_shard_index(folder, entry) for entry in manifest.shards))


def _shard_index(folder: Path, entry: ShardEntry) -> ShardIndex:
    """The index beside one tar, checked against the manifest; from a store once more where it came damaged."""
    path = index_path(folder / entry.file)
    again = f"`umt-data index {folder}`"
    for _ in range(1 if is_local(folder) else 2):
        try:
            data = read_whole(path, root=folder)
        except FileNotFoundError as error:
            raise DataError(f"shard {entry.file} has no index {path}", hint=f"run {again}") from error
        except OSError as error:
            raise DataError(f"{path} {why_not(error)}", hint="look at its permissions and its disk") from error
        if sha256(data).hexdigest() == entry.index_sha256:
            return parse_index(data, path)
    raise DataError(
        f"shard {folder / entry.file} does not match its manifest: {path.name} is not the file that the manifest names",
        hint=f"restore it, or take it as it is now: {again[:-1]} --force`",
    )
