"""MSVD: some 40 captions a video, of which each is a query.

Published: `AllVideoDescriptions.txt`, a video and a caption a line; the `MSR Video Description Corpus.csv` of many
languages, whose English rows count here; lists of the videos of a split (`train_list.txt`, …); and rows of UMT with all
captions of a video.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from data_prep.clip import Refusal
from data_prep.protocols.captions import UNSAID, Caption, pairs, read_captions
from data_prep.protocols.protocol import Counts, Note, Protocol
from data_prep.tables.table import ColumnsError, Table, clean, text_lines
from umt_ds.errors import DataError, shown

_LINE = re.compile(r"(?P<video>\S+_\d+_\d+)(?:\s+(?P<text>.*))?")  # names end with the seconds of the film
_COLUMNS = ("videoid", "start", "end", "language", "description")


def _said(path: Path) -> Iterator[Caption | Refusal | Note]:
    if path.suffix.lower() == ".txt":
        return _described(path)
    if path.suffix.lower() == ".csv":
        with suppress(ColumnsError):
            return _of_corpus(path, Table(path, columns=_COLUMNS))
    return pairs(path)


def _described(path: Path) -> Iterator[Caption]:
    """Lines of a video and a caption; what stands above the first is about the file. Raises DataError for others."""
    begun = False
    for line, (text,) in text_lines(path):
        found = _LINE.fullmatch(text)
        if found is None and begun:
            raise DataError(
                f"{path} line {line} has no video and caption: {shown(repr(text))}",
                hint="as in AllVideoDescriptions.txt: -4wsuPCjDBc_5_15 a squirrel is eating a peanut",
            )
        if found is not None:
            begun = True
            yield Caption(f"{path.name} line {line}", found["video"], found["text"] or "", UNSAID)
    if not begun:
        raise DataError(f"{path} has neither names of videos nor videos with captions, a line each")


def _of_corpus(path: Path, table: Table) -> Iterator[Caption | Refusal]:
    for line, (video, start, end, language, text) in table:
        where = f"{path.name} line {line}"
        if language != "English":
            yield Refusal(where, "a caption that is not in English")
        else:
            yield Caption(where, f"{video}_{start}_{end}", clean(text), UNSAID)


def _protocol(split: str, about: str, counts: Counts, *, as_list: bool) -> Protocol:
    read = partial(read_captions, said=_said, as_list=as_list, list_name=f"{split}_list.txt")
    return Protocol(f"msvd-{split}", "retrieval", about, read, expected=(counts,))


_BY = "AllVideoDescriptions.txt"
PROTOCOLS = (
    _protocol("train", "the training videos, a caption an item", Counts(1200, 48_774, by=_BY), as_list=False),
    _protocol("val", "the validation videos with all of their captions", Counts(100, 4290, by=_BY), as_list=True),
    _protocol("test", "the test videos with all of their captions", Counts(670, 27_763, by=_BY), as_list=True),
)
