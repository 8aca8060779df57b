"""One shard on disk: a plain WebDataset tar and its index, both complete or absent. The door to webdataset."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.clip import Sample
from umt_ds.data.records import ShardEntry, index_path, index_tar, shard_entries
from umt_ds.errors import MachineError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_shard(tar: Path, samples: Iterable[Sample]) -> ShardEntry | None:
    """Write `samples` and the index; None, and no file, if there is not one sample.

    The same samples give the same bytes. The tar appears under its name only when it and its index are
    whole. Raises MachineError when the disk is full; the half-written file is then removed.
    """
    partial = tar.with_name(tar.name + ".partial")
    with disk_full_is_an_error(tar):
        try:
            if not _write_tar(partial, samples):
                return None
            index_tar(partial).save(index_path(tar))
            os.replace(partial, tar)
        finally:
            partial.unlink(missing_ok=True)
    return shard_entries([tar])[0]


def _write_tar(path: Path, samples: Iterable[Sample]) -> int:
    """The number of samples written, on the disk when this returns."""
    import webdataset  # loads torch: only this process, and only when it writes

    count = 0
    with path.open("wb") as file:
        # mtime 0: the writer's clock would make the bytes differ. PAX: keys of any length (USTAR stops at 255).
        with webdataset.TarWriter(file, encoder=False, mtime=0, format="PAX_FORMAT") as tar:
            for sample in samples:
                tar.write({"__key__": sample.key, **sample.members})
                count += 1
        file.flush()
        os.fsync(file.fileno())
    return count


@contextmanager
def disk_full_is_an_error(path: Path) -> Iterator[None]:
    """Say what a full disk means for the user; other I/O errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise MachineError(
            f"no room to write {path}: {error.strerror}",
            hint="finished shards are kept: make room and give the same command again",
        ) from error
