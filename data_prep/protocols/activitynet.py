"""ActivityNet Captions: all sentences of a video are one paragraph."""

from __future__ import annotations

from data_prep.protocols.protocol import Protocol

PROTOCOLS: tuple[Protocol, ...] = ()
