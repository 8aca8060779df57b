"""One shard in its folder: a plain WebDataset tar and its index, both complete or absent. The door to webdataset."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.clip import Sample
from umt_ds.data.places import publish, scratch_for
from umt_ds.data.records import ShardEntry, index_path, shard_entries
from umt_ds.data.tars import index_tar
from umt_ds.errors import MachineError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_shard(tar: Path, samples: Iterable[Sample], *, scratch: Path) -> ShardEntry | None:
    """Write `samples` and the index; None, and no file, if there is not one sample.

    The same samples give the same bytes. Both files are made in a new folder below `scratch` (for a remote `tar`
    in a temporary one) and appear under their names when they are whole.
    Raises MachineError when the disk is full; the half-written file is then removed.
    """
    with disk_full_is_an_error(tar), scratch_for(scratch) as folder:
        made = folder / tar.name
        if not _write_tar(made, samples):
            return None
        index_tar(made).save(index_path(made))
        entry = shard_entries([made])[0]
        publish(index_path(made), index_path(tar))
        publish(made, tar)
    return entry


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
        if error.errno not in _DISK_FULL:
            raise
        raise MachineError(
            f"no room to write {path}: {error.strerror}",
            hint="finished shards are kept: make room and give the same command again",
        ) from error
