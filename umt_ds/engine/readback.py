"""Files of a run folder, read back as what crashes, disks and people may have made of them. Torch-free."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

from umt_ds.errors import ConfigError, MachineError

_GONE = (FileNotFoundError, NotADirectoryError)


def read_back(path: Path) -> bytes:
    """All bytes of a file. Raises FileNotFoundError where no file is, MachineError where the disk does not give it."""
    if not is_file(path):
        raise FileNotFoundError(f"{path} is no file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def is_file(path: Path) -> bool:
    """Is a regular file there, or a link to one? (Whoever opens a pipe waits for ever.) Raises MachineError where the
    disk does not say."""
    return _has_mode(path, stat.S_ISREG)


def is_folder(path: Path) -> bool:
    """Is a folder there, or a link to one? Raises MachineError where the disk does not say."""
    return _has_mode(path, stat.S_ISDIR)


def why_no_run(folder: Path, lacks: str) -> str:
    """What to say of a folder that should be a run's and has no such file. Raises MachineError as `is_folder`."""
    return f"{folder} is no run folder: it has no {lacks}" if is_folder(folder) else f"there is no folder {folder}"


def names_in(folder: Path) -> list[str]:
    """What is in a folder, sorted; nothing where there is none. Raises MachineError where the disk does not say, and
    where something else is in its place: a link to a disk that is not mounted is no empty folder."""
    try:
        return sorted(entry.name for entry in os.scandir(folder))
    except _GONE as error:
        if os.path.lexists(folder):
            raise unreadable(folder, error) from error
        return []
    except OSError as error:
        raise unreadable(folder, error) from error


def refuse_no_file(path: Path) -> None:
    """Raises MachineError where something is at `path` that is no file: to open a pipe would take for ever."""
    if os.path.exists(path) and not is_file(path):
        raise MachineError(f"{path} is no file", hint="move it away, and start the same command again")


def parse_json(content: bytes) -> object:
    """What UTF-8 JSON says. Raises ValueError on anything else, however deep or long it is."""
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def unreadable(path: Path, error: OSError) -> MachineError:
    """A file that is there but is not given: no sign of damage, so nothing may be decided by its absence."""
    return MachineError(
        f"{path} cannot be read: {error.strerror or error}",
        hint="nothing was changed; make it readable again (disk, mount, permissions) and start the same command again",
    )


def _has_mode(path: Path, wanted: Callable[[int], bool]) -> bool:
    try:
        return wanted(os.stat(path).st_mode)
    except _GONE:
        return False
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself leads to nothing
            return False
        if error.errno == errno.ENAMETOOLONG:
            raise ConfigError(f"no file can have this name, it is too long: {str(path)!r:.200}") from error
        raise unreadable(path, error) from error
