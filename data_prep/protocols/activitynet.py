"""ActivityNet Captions: all sentences of a video are one paragraph.

    train.json, val_1.json  {"v_ID": {"duration": 55.2, "timestamps": […], "sentences": ["One.", " Two."]}}
    of UMT and VindLU       [{"video": "v_ID.mp4", "caption": ["One.", "Two."]}], or SQLite

Papers test on val_1; val_2 has other sentences for the same videos.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from data_prep.protocols.fields import SPAN, VIDEO, is_object, names_in_activitynet, rows_of
from data_prep.protocols.paragraph import read_paragraphs
from data_prep.protocols.protocol import Counts, Note, Protocol, Row
from data_prep.tables.table import read_json
from umt_ds.errors import DataError, shown

_TEXTS = ("sentences", "caption")


def _rows(path: Path) -> Iterator[Row | Note]:
    if not is_object(path):
        yield from rows_of(path, (*VIDEO, *_TEXTS, *SPAN))
        return
    for video, said in read_json(path).items():
        if not isinstance(said, dict):
            raise DataError(
                f"{path}: {shown(video)} has no sentences",
                hint='known: {"v_ID": {"sentences": […]}} of ActivityNet Captions, and the json and SQLite of UMT',
            )
        yield f"{path.name} {shown(video)}", {"video": video, "sentences": said.get("sentences")}


_read = partial(read_paragraphs, texts=_TEXTS, rows=_rows, names_of=names_in_activitynet)
PROTOCOLS = (
    Protocol(
        "activitynet-train",
        "retrieval",
        "ActivityNet Captions, training: a paragraph a video",
        _read,
        (Counts(10009, 10009),),
        captions="paragraph",
    ),
    Protocol(
        "activitynet-val1",
        "retrieval",
        "ActivityNet Captions, testing: val_1",
        _read,
        (Counts(4917, 4917),),
        captions="paragraph",
    ),
)
