"""Host files: one line a node, `NAME slots=RANKS`, as DeepSpeed's launcher reads them."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from umt_ds.config.yaml_text import read_text
from umt_ds.environment import is_host
from umt_ds.errors import ConfigError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_EXAMPLE = "for example: gpu003 slots=8"


def read_hostfile(path: Path) -> dict[str, int]:
    """Ranks by host, in the order of the file. Raises ConfigError naming the line that is wrong."""
    hosts: dict[str, int] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        match = re.fullmatch(r"(\S+)[ \t]+slots=([1-9][0-9]{0,5})", words)
        if match is None or not is_host(match[1]):
            raise ConfigError(
                f"{path}, line {number}: {words!r:.100} is not of the form NAME slots=RANKS", hint=_EXAMPLE
            )
        if match[1].lower() in map(str.lower, hosts):
            raise ConfigError(f"{path}, line {number}: {words!r} names a host a second time", hint=_EXAMPLE)
        hosts[match[1]] = int(match[2])
    if not hosts:
        raise ConfigError(f"the host file {path} names no host", hint=_EXAMPLE)
    if len(hosts) > 1 and (own := [host for host in hosts if host.lower() in _LOOPBACK]):
        raise ConfigError(
            f"{path} names {own[0]} among other hosts, to which that is another machine",
            hint="give this machine the name by which the others reach it",
        )
    return hosts


def is_here(hosts: dict[str, int]) -> bool:
    """Whether all ranks are on this machine, so that no ssh is needed."""
    name = socket.gethostname().lower()
    return all(host.lower() in (*_LOOPBACK, name, name.partition(".")[0]) for host in hosts)


def as_hostfile(hosts: dict[str, int]) -> str:
    """The text of a host file for DeepSpeed, which would take a byte order mark for a part of the first host."""
    return "".join(f"{host} slots={ranks}\n" for host, ranks in hosts.items())
