"""Question answering on ActivityNet, MSRVTT and MSVD."""

from __future__ import annotations

from data_prep.protocols.protocol import Protocol

PROTOCOLS: tuple[Protocol, ...] = ()
