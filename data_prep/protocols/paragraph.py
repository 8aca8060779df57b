"""Retrieval by paragraph: all texts of a video are one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from data_prep.clip import Refusal
from data_prep.protocols.protocol import Row
from data_prep.tables.table import clean
from umt_ds.errors import DataError, shown

_VIDEO = ("video", "filename")  # as json and as SQLite name it
_PART = ("start", "end")  # seconds, where several clips of a video have texts of their own


def paragraphs(rows: Iterable[Row], *, forms: str, texts: tuple[str, ...]) -> Iterator[Row | Refusal]:
    """A row a video, in the order in which `rows` first name it: its texts in their order, joined by a space. A video
    of which nothing is said is a Refusal.

    texts: what the field of a text, or of a list of texts, may be called. forms: those that are published, for the
    hint. Raises DataError where a row names no video, or has no such field.
    """
    found: dict[tuple[object, ...], tuple[str, dict[str, Any], list[str]]] = {}
    for where, fields in rows:
        video = next((fields[name] for name in _VIDEO if fields.get(name)), None)
        if not isinstance(video, str):
            raise DataError(f"{where} names no video", hint=forms)
        clip = {"video": video, **{name: fields[name] for name in _PART if name in fields}}
        _, _, said = found.setdefault(tuple(map(str, clip.values())), (where, clip, []))
        said += _texts(where, fields, texts, forms)
    for where, clip, said in found.values():
        yield (where, {**clip, "caption": " ".join(said)}) if said else Refusal(where, "the files say nothing of it")


def _texts(where: str, fields: Mapping[str, Any], names: tuple[str, ...], forms: str) -> list[str]:
    """The texts of a row that say anything, without space around them. Published sentences begin with some, which
    tokens ignore."""
    said = next((fields[name] for name in names if name in fields), None)
    texts = [said] if isinstance(said, str) else said
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where} has no text: {' or '.join(names)} is {shown(repr(said))}", hint=forms)
    return [clean(text) for text in texts if text.strip()]
