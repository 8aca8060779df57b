"""All protocols by name."""

from __future__ import annotations

import difflib

from data_prep.protocols import activitynet, ava, didemo, lsmdc, msrvtt, msvd, questions, something
from data_prep.protocols.protocol import Protocol
from umt_ds.errors import ConfigError, shown

MODULES = (msrvtt, didemo, activitynet, lsmdc, msvd, something, questions, ava)
PROTOCOLS: dict[str, Protocol] = {one.name: one for module in MODULES for one in module.PROTOCOLS}


def protocol(name: str) -> Protocol:
    """Raises ConfigError where there is none of this name."""
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(name, PROTOCOLS, n=3, cutoff=0.4)
        raise ConfigError(
            f"--protocol {shown(name)}: there is no protocol of this name",
            hint=f"{'perhaps ' + ' or '.join(near) + '; ' if near else ''}`umt-data protocols` lists them",
        )
    return PROTOCOLS[name]


def table() -> str:
    """Name, task, expected videos and texts, and what it is, a line each."""
    lines = [("NAME", "TASK", "VIDEOS", "TEXTS", "")]
    for one in PROTOCOLS.values():
        counted = dict.fromkeys(f"{counts.videos:,}" for counts in one.expected if counts.videos is not None)
        videos = " or ".join(counted)
        texts = " or ".join(f"{counts.texts:,}" for counts in one.expected if counts.texts is not None)
        lines.append((one.name, one.task, videos, texts, one.about))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join(
        "  ".join([*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[4]]).rstrip() for line in lines
    )
