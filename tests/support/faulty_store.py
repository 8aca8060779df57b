"""A store whose objects are files of a folder, for tests of what goes wrong: faulty:// and the path of a file.

`fault(name, kind)` makes requests for an object fail in one of the ways of KINDS, in all processes that import this
module, until `heal`. Every request is noted.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from fsspec import AbstractFileSystem
from upath import UPath
from upath.registry import register_implementation

from umt_ds.data.shards.storage import as_path

_REQUESTS, _FAULT = ".requests", ".fault"


def _refused(code: str) -> Exception:
    error = PermissionError(f"An error occurred ({code}) when calling the GetObject operation: no")
    error.__cause__ = ClientError({"Error": {"Code": code, "Message": "no"}}, "GetObject")
    return error


KINDS: dict[str, Callable[[], Exception]] = {
    "expired": lambda: _refused("ExpiredToken"),
    "archived": lambda: _refused("InvalidObjectState"),
    "no credentials": NoCredentialsError,
    "no address": lambda: EndpointConnectionError(endpoint_url="http://store"),
    "503": lambda: OSError("An error occurred (SlowDown) when calling the GetObject operation: 503"),
    "reset": lambda: ConnectionResetError(104, "Connection reset by peer"),
    "timeout": lambda: TimeoutError("Read timeout"),
    "gone": lambda: FileNotFoundError(2, "The specified key does not exist"),
}


def fault(path: Path, kind: str) -> None:
    """From now on this object fails so: KINDS; "short": half of the bytes come; "short once"; "slow N" seconds."""
    Path(f"{path}{_FAULT}").write_text(kind)


def heal(path: Path) -> None:
    """The object can be read again."""
    Path(f"{path}{_FAULT}").unlink()


@dataclass(frozen=True)
class Request:
    """What was asked (GET, HEAD, LIST, PUT), of which object, and how many bytes came."""

    what: str
    name: str
    bytes: int


def requests_in(folder: Path) -> list[Request]:
    """The requests since the last call."""
    log = folder / _REQUESTS
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [Request(what, name, int(size)) for what, name, size in (line.split("\t") for line in lines)]


def in_store(folder: Path) -> Path:
    """A folder of this disk as one of the store."""
    return as_path(f"faulty://{folder}")


class FaultyStore(AbstractFileSystem):  # type: ignore[misc]  # (fsspec has no types)
    """See above."""

    protocol = "faulty"
    root_marker = "/"
    cachable = False

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        local = self._local(path)
        self._ask("HEAD", local, 0)
        return self._entry(local)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        local = self._local(path)
        self._ask("LIST", local, 0)
        if local.is_file():
            entries = [self._entry(local)]
        else:
            shown = [one for one in sorted(local.iterdir()) if not one.name.endswith((_FAULT, _REQUESTS))]
            entries = [self._entry(one) for one in shown]
        return entries if detail else [entry["name"] for entry in entries]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        local = self._local(path)
        how = self._ask("GET", local, 0)
        with local.open("rb") as file:
            file.seek(start or 0)
            data = file.read(-1 if end is None else end - (start or 0))
        data = data[: len(data) // 2] if how.startswith("short") else data
        self._note("GOT", local, len(data))
        return data

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        local = self._local(path)
        self._ask("PUT", local, len(value))
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(value)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        self._ask("OPEN", self._local(path), 0)
        self._local(path).parent.mkdir(parents=True, exist_ok=True)
        return self._local(path).open(mode)

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        self._local(path).mkdir(parents=True, exist_ok=True)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._local(path).mkdir(parents=True, exist_ok=True)

    def rm_file(self, path: str) -> None:
        local = self._local(path)
        shutil.rmtree(local) if local.is_dir() else local.unlink()

    def _local(self, path: str) -> Path:
        return Path("/", self._strip_protocol(path))

    @staticmethod
    def _entry(local: Path) -> dict[str, Any]:
        size = local.stat().st_size  # FileNotFoundError, as of an object
        return {"name": str(local), "size": size, "type": "directory" if local.is_dir() else "file"}

    def _ask(self, what: str, local: Path, size: int) -> str:
        """Note a request, and fail as this object does; the kind of its fault where it answers all the same."""
        self._note(what, local, size)
        marker = Path(f"{local}{_FAULT}")
        kind = marker.read_text() if marker.exists() else ""
        if kind in KINDS:
            raise KINDS[kind]()
        if kind.startswith("slow"):
            time.sleep(float(kind.split()[1]))
        if kind == "short once" and what == "GET":
            marker.unlink()
        return kind if what == "GET" else ""

    @staticmethod
    def _note(what: str, local: Path, size: int) -> None:
        """Beside the object, in one write, so that several processes may."""
        if local.parent.is_dir():
            log = os.open(local.parent / _REQUESTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(log, f"{what}\t{local.name}\t{size}\n".encode())
            os.close(log)


class FaultyPath(UPath):
    """Its paths."""


fsspec.register_implementation("faulty", FaultyStore, clobber=True)
register_implementation("faulty", FaultyPath, clobber=True)
