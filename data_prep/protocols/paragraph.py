"""Retrieval by paragraph: all texts of a video are one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.clip import Refusal
from data_prep.protocols.fields import SPAN, VIDEO, different, rows_of, texts_in, video_in, video_name
from data_prep.protocols.protocol import Note, Row, Said
from umt_ds.errors import DataError

NamesOf = Callable[[str], tuple[str, ...]]  # what a file calls a video → the names that a clip of it may have


def read_paragraphs(
    annotations: Sequence[Path],
    *,
    texts: tuple[str, ...],
    rows: Callable[[Path], Iterator[Row | Note]] | None = None,
    names_of: NamesOf | None = None,
) -> Iterator[Said]:
    """A row a video, in the order in which the files first name it: its texts in their order, joined by a space. A
    video of which nothing is said is a Refusal.

    texts: what the field of a text, or of a list of texts, may be called. rows: of a file that is in a form of its own.
    Raises DataError where a row names no video or has no such field, or two files have texts of one video.
    """
    found: dict[tuple[object, ...], tuple[str, dict[str, Any], list[str]]] = {}
    home: dict[str, Path] = {}
    for path in different(annotations):
        for row in rows(path) if rows else rows_of(path, (*VIDEO, *texts, *SPAN)):
            if isinstance(row, Note):
                yield row
                continue
            where, fields = row
            file = video_in(fields, where)
            name = video_name(file)
            if (first := home.setdefault(name, path)) is not path:
                raise DataError(f"{first} and {path} both have texts of {name}", hint="give one of them")
            part = {field: fields[field] for field in SPAN if field in fields}
            clip = {"video": names_of(name) if names_of else file, **part}
            _, _, said = found.setdefault((file, *map(str, part.items())), (where, clip, []))
            said += filter(None, texts_in(fields, texts, where))
    for where, clip, said in found.values():
        yield (where, {**clip, "caption": " ".join(said)}) if said else Refusal(where, "the files say nothing of it")
