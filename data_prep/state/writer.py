"""The files of one shard: a plain WebDataset tar and its index. The door to webdataset."""

from __future__ import annotations

import errno
import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.clip import Sample
from umt_ds.data.shards.records import ShardEntry, index_path, shard_entries
from umt_ds.data.shards.storage import scratch_for
from umt_ds.data.shards.tars import index_tar
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
        if not _write_tar(made, samples):
            yield None
            return
        index_tar(made).save(index_path(made))
        yield made, shard_entries([made])[0]


def _write_tar(path: Path, samples: Iterable[Sample]) -> int:
    """The number of samples written."""
    import webdataset  # loads torch: only this process, and only when it writes

    count = 0
    # mtime 0: the writer's clock would make the bytes differ. PAX: keys of any length (USTAR stops at 255).
    with (
        path.open("wb") as file,
        webdataset.TarWriter(file, encoder=False, mtime=0, format="PAX_FORMAT") as tar,
    ):
        for sample in samples:
            tar.write({"__key__": sample.key, **sample.members})
            count += 1
    return count


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
