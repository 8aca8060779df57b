"""Something-Something V2 as retrieval: a caption, or a template, has several videos."""

from __future__ import annotations

from data_prep.protocols.protocol import Protocol

PROTOCOLS: tuple[Protocol, ...] = ()
