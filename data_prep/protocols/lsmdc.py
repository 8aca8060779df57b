"""LSMDC: one sentence a clip of a film."""

from __future__ import annotations

from data_prep.protocols.protocol import Protocol

PROTOCOLS: tuple[Protocol, ...] = ()
