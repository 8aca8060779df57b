"""LSMDC: a sentence a clip of a film; a few clips of the training split have two.

Published: `LSMDC16_annos_training.csv` and others, six columns between tabs without a header (clip, start and end as
aligned, start and end as extracted, sentence); `LSMDC16_multiple_choice_test_randomized.csv`, with five sentences and
the number of the right one; and rows of UMT.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from data_prep.clip import Refusal
from data_prep.protocols.captions import Caption, choice, pairs, questions, read_captions, read_choices
from data_prep.protocols.fields import video_name
from data_prep.protocols.protocol import Counts, Note, Protocol, Row
from data_prep.tables.table import clean, split_lines, text_lines, whole_number
from umt_ds.errors import DataError

_TIMES = 4  # columns between the clip and its text
_OPTIONS = 5
_TIME = re.compile(r"[\d.:]+")


def _said(path: Path) -> Iterator[Caption | Refusal | Note]:
    if not _is_official(path):
        yield from pairs(path)
        return
    for where, cells in _lines(path, columns=_TIMES + 2, what="a clip, four times and a sentence"):
        yield Caption(where, video_name(cells[0]), clean(cells[-1]))


def _questions(path: Path) -> Iterator[Row | Note]:
    if not _is_official(path):
        yield from questions(path)
        return
    what = "a clip, four times, five sentences and the number of the right one"
    for where, cells in _lines(path, columns=_TIMES + _OPTIONS + 2, what=what):
        number = whole_number(cells[-1])  # from 1
        answer = cells[-1] if number is None else number - 1
        yield choice(where, {"video": cells[0], "options": list(cells[_TIMES + 1 : -1]), "answer": answer})


def _is_official(path: Path) -> bool:
    """Whether the first line of a file has a time in its second column."""
    if path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        return False
    first = next((line for _, (line,) in text_lines(path)), "")
    return len(cells := first.split("\t")) > 1 and _TIME.fullmatch(cells[1].strip()) is not None


def _lines(path: Path, *, columns: int, what: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Raises DataError where a line has another number of columns; tabs at its end are none."""
    for line, cells in split_lines(path, delimiter="\t"):
        while len(cells) > columns and not cells[-1]:
            cells = cells[:-1]
        if len(cells) != columns:
            raise DataError(
                f"{path} line {line} has {len(cells)} columns, and should have {columns}: {what}",
                hint="LSMDC16_annos_* are for retrieval, LSMDC16_multiple_choice_test_randomized.csv is for lsmdc-mc; "
                "the blind test has no sentences",
            )
        yield f"{path.name} line {line}", cells


PROTOCOLS = (
    Protocol(
        "lsmdc-train",
        "retrieval",
        "the training clips, a sentence an item",
        partial(read_captions, said=_said, as_list=False),
        # some clips have two sentences; UMT does not say which of both it counts
        expected=(Counts(None, 101_079, by="LSMDC 2016"), Counts(101_055), Counts(None, 101_055)),
    ),
    Protocol(
        "lsmdc-val",
        "retrieval",
        "the validation clips",
        partial(read_captions, said=_said, as_list=True),
        expected=(Counts(None, 7408, by="LSMDC 2016"),),
    ),
    Protocol(
        "lsmdc-test",
        "retrieval",
        "the 1,000 clips of LSMDC16_challenge_1000_publictect.csv",
        partial(read_captions, said=_said, as_list=True),
        expected=(Counts(1000, 1000),),
    ),
    Protocol(
        "lsmdc-mc",
        "multiple choice",
        "five sentences a clip of the public test, of which one is right",
        partial(read_choices, said=_questions),
        expected=(Counts(None, _OPTIONS * 10_053, by="LSMDC 2016"),),
    ),
)
