"""The files of one shard: a plain WebDataset tar and its index. The door to webdataset."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.clip import Sample
from umt_ds.data.places import scratch_for
from umt_ds.data.records import ShardEntry, index_path, index_tar, shard_entries
from umt_ds.errors import MachineError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
