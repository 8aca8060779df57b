"""MSVD: some 40 captions a video, of which each is a query."""

from __future__ import annotations

from data_prep.protocols.protocol import Protocol

PROTOCOLS: tuple[Protocol, ...] = ()
