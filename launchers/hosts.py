"""Host files: one line a node, `NAME slots=RANKS`, as DeepSpeed's launcher reads them."""

from __future__ import annotations

import re
from pathlib import Path

from umt_ds.errors import ConfigError


def read_hostfile(path: Path) -> dict[str, int]:
    """Ranks by host, in the order of the file. Raises ConfigError naming the line that is wrong."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ConfigError(f"the host file {path} cannot be read: {error.strerror}") from error
    hosts: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        match = re.fullmatch(r"(\S+)\s+slots=([1-9]\d*)", words)
        if match is None or match[1] in hosts:
            wrong = "is not of the form NAME slots=RANKS" if match is None else "names a host a second time"
            raise ConfigError(f"{path}, line {number}: {words!r} {wrong}", hint="for example: gpu003 slots=8")
        hosts[match[1]] = int(match[2])
    if not hosts:
        raise ConfigError(f"the host file {path} names no host", hint="for example: gpu003 slots=8")
    return hosts
