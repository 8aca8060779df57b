"""All that lies below a folder, of a disk or a store, and what of it is no file. Torch-free."""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from umt_ds.data.shards.storage import is_local, objects_below


@dataclass(frozen=True)
class Below:
    """One folder below another."""

    folder: str  # as a path below the other one, "" for itself
    files: list[str]
    num_folders: int = 0  # in it
    others: Mapping[str, str] = field(default_factory=dict)  # what is in it and no file or folder: what it is


def files_below(folder: Path) -> Iterator[Below]:
    """`folder` and each folder below it, with what is directly in them, and what of that cannot be read.

    Also behind links; a link back to a folder already seen is not followed again. Raises OSError where `folder` itself
    cannot be read.
    """
    if not is_local(folder):
        yield from _objects_below(folder)
        return
    seen: set[str] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        seen.add(os.path.realpath(folder / below))
        files: list[str] = []
        folders: list[str] = []
        others: dict[str, str] = {}
        try:
            with os.scandir(folder / below) as entries:  # unlike Path.iterdir it knows what is a file without asking
                for entry in entries:
                    match what := _what_is(entry):
                        case "file":
                            files.append(entry.name)
                        case "folder":
                            folders.append(entry.name)
                        case _:
                            others[entry.name] = what
        except OSError as error:
            if not below:
                raise
            others[""] = f"folder cannot be read: {error.strerror}"  # what is in it is not known
        yield Below(below, files, len(folders), others)
        paths = (f"{below}/{name}" if below else name for name in sorted(folders, reverse=True))
        waiting += [path for path in paths if os.path.realpath(folder / path) not in seen]


def _what_is(entry: os.DirEntry[str]) -> str:
    """`file`, `folder`, or in words what it is instead."""
    try:
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return "folder"
        mode = entry.stat().st_mode
    except FileNotFoundError:
        return "a link that leads nowhere" if entry.is_symlink() else "gone meanwhile"
    except OSError as error:  # of what a link leads to
        circle = error.errno == errno.ELOOP
        return "a link that leads in a circle" if circle else f"cannot be read: {error.strerror}"
    kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return f"{kinds.get(stat.S_IFMT(mode), 'a device')} and no file"


def _objects_below(folder: Path) -> Iterator[Below]:
    """The same for an object store, where one call lists all that is below."""
    names: dict[str, list[str]] = defaultdict(list)
    for path in objects_below(folder):
        below, _, name = path.rpartition("/")
        names[below].append(name)
    yield from (Below(below, files) for below, files in names.items())
