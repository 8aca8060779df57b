"""Files that others may read at any moment: they appear whole, under their name, or not at all. Torch-free.

For disks; `data.shards.storage` has the same for stores.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def partial_beside(path: Path) -> Path:
    """Where this process writes what will be `path`: no other process of any node has that name."""
    return path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.partial")


def publish(finished: Path, path: Path) -> None:
    """Move a finished file of the same disk to `path`. Raises OSError."""
    with finished.open("rb") as file:
        os.fsync(file.fileno())  # after a power cut the new name must not stand for an empty file
    os.replace(finished, path)


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Gives the name of a file to write; at the end of the block it becomes `path`, unless something was raised."""
    partial = partial_beside(path)
    try:
        yield partial
        publish(partial, path)
    finally:
        with suppress(OSError):  # what was raised before says more
            partial.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a small file; text as UTF-8. Raises OSError."""
    with appearing(path) as partial:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)
