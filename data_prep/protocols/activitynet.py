"""ActivityNet Captions: all sentences of a video are one paragraph.

    train.json, val_1.json  {"v_ID": {"duration": 55.2, "timestamps": […], "sentences": ["One.", " Two."]}}
    of UMT and VindLU       [{"video": "v_ID.mp4", "caption": ["One.", "Two."]}], or SQLite

Papers test on val_1; val_2 has other sentences for the same videos.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from data_prep.clip import Refusal
from data_prep.protocols.paragraph import paragraphs
from data_prep.protocols.protocol import Counts, Protocol, Row
from data_prep.tables.annotations import read_annotations
from data_prep.tables.table import read_json
from umt_ds.errors import DataError, shown

_FORMS = (
    'known: {"v_ID": {"sentences": […]}} of ActivityNet Captions, [{"video", "caption"}] and SQLite of UMT and VindLU'
)


def _read(annotations: Sequence[Path]) -> Iterator[Row | Refusal]:
    return paragraphs(chain.from_iterable(map(_rows, annotations)), forms=_FORMS, texts=("sentences", "caption"))


def _rows(path: Path) -> Iterator[Row]:
    content = read_json(path) if path.suffix.lower() == ".json" else None
    if not isinstance(content, dict):
        yield from read_annotations(path)
        return
    for video, said in content.items():
        if not isinstance(said, dict):
            raise DataError(f"{path}: {shown(video)} has no sentences", hint=_FORMS)
        yield f"{path.name} {shown(video)}", {"video": video, "sentences": said.get("sentences")}


PROTOCOLS = (
    Protocol(
        "activitynet-train",
        "retrieval",
        "ActivityNet Captions, training: a paragraph a video",
        _read,
        (Counts(10009, 10009),),
    ),
    Protocol("activitynet-val1", "retrieval", "ActivityNet Captions, testing: val_1", _read, (Counts(4917, 4917),)),
)
