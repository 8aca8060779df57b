"""AVA v2.2: boxes and actions of a second in videos of 15 minutes."""

from __future__ import annotations

from data_prep.protocols.protocol import Protocol

PROTOCOLS: tuple[Protocol, ...] = ()
