"""MSR-VTT: 20 captions a video, in the splits that papers use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.protocols.protocol import Counts, Protocol, Row
from data_prep.tables.annotations import read_annotations


def _pairs(annotations: Sequence[Path]) -> Iterator[Row]:
    """[{"video", "caption"}] of UMT and VindLU: a list of captions is a row for each."""
    for path in annotations:
        for where, fields in read_annotations(path):
            captions = fields.pop("caption", [])
            for caption in [captions] if isinstance(captions, str) else captions:
                yield where, {**fields, "caption": caption}


PROTOCOLS = (
    Protocol(
        "msrvtt-1ka", "retrieval", "MSRVTT's 1,000 test pairs of JSFusion", _pairs, expected=(Counts(1000, 1000),)
    ),
)
