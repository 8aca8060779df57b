"""Files for tests: empty ones by name, one with a text, all of a folder by their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def touch(folder: Path, *names: str) -> Path:
    """Make empty files below `folder`; returns it."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def written(path: Path, text: str) -> Path:
    """Write `text` to `path`; returns it."""
    path.write_text(text, encoding="utf-8")
    return path


def hashes_in(folder: Path) -> dict[str, str]:
    """The files directly in `folder`, a disk's or an object store's, by content."""
    files = [path for path in folder.iterdir() if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@contextmanager
def as_nobody() -> Iterator[None]:
    """As a user without rights: root may read everything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)
