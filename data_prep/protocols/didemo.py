"""DiDeMo: all descriptions of a video are one paragraph, and of the video the first 30 seconds count.

    train_data.json, …    [{"video": "a.mov", "description": "one", "times": […], …}], an entry a description
    of UMT and VindLU     [{"video": "a.mp4", "caption": ["one", "two"]}], or SQLite

The official files of validation and testing have the 1,094 and 1,036 videos of the paper; those of VindLU fewer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from data_prep.clip import Refusal
from data_prep.protocols.paragraph import paragraphs
from data_prep.protocols.protocol import Counts, Protocol, Row
from data_prep.tables.annotations import read_annotations

_FORMS = 'known: DiDeMo\'s [{"video", "description"}], [{"video", "caption"}] and SQLite of UMT and VindLU'
_VINDLU = "VindLU's files"


def _read(annotations: Sequence[Path]) -> Iterator[Row | Refusal]:
    rows = chain.from_iterable(map(read_annotations, annotations))
    return paragraphs(rows, forms=_FORMS, texts=("description", "caption"))


def _split(name: str, about: str, *expected: Counts) -> Protocol:
    return Protocol(f"didemo-{name}", "retrieval", about, _read, expected, first_s=30)


PROTOCOLS = (
    _split("train", "DiDeMo, training: a paragraph a video", Counts(8496, 8496), Counts(8394, 8394, _VINDLU)),
    _split("val", "DiDeMo, validation", Counts(1094, 1094), Counts(1065, 1065, _VINDLU)),
    _split("test", "DiDeMo, testing", Counts(1036, 1036), Counts(1003, 1003, _VINDLU)),
)
