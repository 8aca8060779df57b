"""DiDeMo: all descriptions of a video are one paragraph, and of the video the first 30 seconds count."""

from __future__ import annotations

from data_prep.protocols.protocol import Protocol

PROTOCOLS: tuple[Protocol, ...] = ()
