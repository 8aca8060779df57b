"""Something-Something V2 as retrieval: a text, which is a caption or a template, has several videos.

    train.json, validation.json  [{"id": "62211", "label": "spinning soap", "template": "Spinning [something]", …}]
    of UMT and VindLU            [{"video": ["62211.webm", …], "caption": "Spinning [something]"}], or SQLite

Of the 24,777 videos of validation.json papers test on 2,088, twelve for each of the 174 templates: only the files of
UMT and VindLU say which. Texts stay as they are written, brackets too, for so they were trained with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from data_prep.clip import Refusal
from data_prep.protocols.fields import VIDEO, Fields, different, field_of, rows_of, texts_in, video_name, videos_in
from data_prep.protocols.protocol import Counts, Note, Protocol, Said
from umt_ds.errors import DataError, shown

Text = Literal["label", "template"]


def _read(annotations: Sequence[Path], *, text: Text) -> Iterator[Said]:
    """A row a video. Its group is its text: videos that show the same count as the same."""
    before: set[tuple[str, str]] = set()
    for path in different(annotations):
        for row in rows_of(path, (*VIDEO, "id", "caption", "label", "template")):
            if isinstance(row, Note):
                yield row
                continue
            where, fields = row
            caption = _caption(fields, text, where)
            for video in _videos(fields, where):
                if not caption:
                    yield Refusal(where, "a caption without text")
                elif (one := (video_name(video), caption)) in before:
                    yield Refusal(where, "the video and its caption stand before it, too")
                else:
                    before.add(one)
                    yield where, {"video": video, "caption": caption, "group": caption}


def _caption(fields: Fields, text: Text, where: str) -> str:
    texts = texts_in(fields, ("caption", text), where)
    if len(texts) != 1:
        raise DataError(f"{where} should have one text, and has {shown(repr(texts))}")
    return texts[0]


def _videos(fields: Fields, where: str) -> list[str]:
    """The publisher has numbers of videos, UMT and VindLU have files."""
    number = fields.get("id") if field_of(fields, VIDEO) is None else None
    return [f"{number}.webm"] if type(number) in (int, str) and number != "" else videos_in(fields, where)


def _split(text: Text, split: str, about: str, videos: int, texts: int) -> Protocol:
    return Protocol(f"ssv2-{text}-{split}", "retrieval", about, partial(_read, text=text), (Counts(videos, texts),))


PROTOCOLS = (
    _split("label", "train", "Something-Something V2, training: captions", 168_913, 109_968),
    _split("label", "test", "Something-Something V2, testing: captions", 2_088, 1_989),
    _split("template", "train", "Something-Something V2, training: templates", 168_913, 174),
    _split("template", "test", "Something-Something V2, testing: templates", 2_088, 174),
)
