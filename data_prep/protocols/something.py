"""Something-Something V2 as retrieval: a text, which is a caption or a template, has several videos.

    train.json, validation.json  [{"id": "62211", "label": "spinning soap", "template": "Spinning [something]", …}]
    of UMT and VindLU            [{"video": ["62211.webm", …], "caption": "Spinning [something]"}], or SQLite

Of the 24,777 videos of validation.json papers test on 2,088, twelve for each of the 174 templates: only the files of
UMT and VindLU say which. Texts stay as they are written, brackets too, for so they were trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from data_prep.clip import Refusal
from data_prep.protocols.protocol import Counts, Protocol, Row
from data_prep.tables.annotations import read_annotations
from data_prep.tables.table import clean
from umt_ds.errors import DataError, shown

Text = Literal["label", "template"]
_FORMS = 'known: SSv2\'s [{"id", "label", "template"}], [{"video", "caption"}] and SQLite of UMT and VindLU'


def _reader(text: Text) -> Callable[[Sequence[Path]], Iterator[Row | Refusal]]:
    return partial(_read, text=text)


def _read(annotations: Sequence[Path], *, text: Text) -> Iterator[Row | Refusal]:
    """A row a video. Its group is its text: videos that show the same count as the same."""
    for path in annotations:
        for where, fields in read_annotations(path):
            said = fields.get("caption", fields.get(text))
            if not isinstance(said, str):
                raise DataError(f"{where} has no caption or {text}: {shown(repr(said))}", hint=_FORMS)
            caption = clean(said)
            for video in _videos(where, fields):
                row = where, {"video": video, "caption": caption, "group": caption}
                yield row if caption else Refusal(where, "a caption without text")


def _videos(where: str, fields: Mapping[str, Any]) -> list[str]:
    said = fields.get("video", fields.get("filename"))
    if said is None and fields.get("id") is not None:
        said = f"{fields['id']}.webm"
    videos = [said] if isinstance(said, str) else said
    if not isinstance(videos, list) or not videos or not all(isinstance(video, str) and video for video in videos):
        raise DataError(f"{where} names no video: {shown(repr(said))}", hint=_FORMS)
    return videos


def _split(text: Text, split: str, about: str, videos: int, texts: int) -> Protocol:
    return Protocol(f"ssv2-{text}-{split}", "retrieval", about, _reader(text), (Counts(videos, texts),))


PROTOCOLS = (
    _split("label", "train", "Something-Something V2, training: captions", 168_913, 109_968),
    _split("label", "test", "Something-Something V2, testing: captions", 2_088, 1_989),
    _split("template", "train", "Something-Something V2, training: templates", 168_913, 174),
    _split("template", "test", "Something-Something V2, testing: templates", 2_088, 174),
)
