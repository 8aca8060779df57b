"""Question answering on ActivityNet, MSRVTT and MSVD: an item a question, with its answers and their weights.

Every published form is rows of a csv, json, json lines or SQLite file, and differs in how it names things:

    UMT, VindLU       video (a file), question, question_id, answer (a text, or a list in which one comes several times)
    ActivityNet-QA    *_q.json: video_name, question, question_id; *_a.json: question_id, answer, type
    MSRVTT-, MSVD-QA  *_qa.json: video_id (a number), question, id, answer; of MSVD `youtube_mapping.txt` says which
                      file a number is: a line of two words, -4wsuPCjDBc_5_15 vid1
    Just Ask          csv of any of them: video_id, question, answer, type, and id but of ActivityNet

Sources: github.com/MILVLG/activitynet-qa (dataset/README.md), github.com/xudejing/video-question-answering,
github.com/antoyang/just-ask (preproc/), dataset/qa_dataset.py of VindLU and UMT for weights. Files of all forms go
through one reader; what differs is what a video is called, and the type of a question.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.clip import Refusal
from data_prep.protocols.fields import (
    SPAN,
    VIDEO,
    Fields,
    different,
    field_of,
    listed,
    names_in_activitynet,
    rows_of,
    video_in,
    video_name,
)
from data_prep.protocols.protocol import Counts, Note, Protocol, Row, Said
from data_prep.tables.table import clean, text_lines, whole_number
from umt_ds.errors import DataError, shown

# What a file calls a video → the names that a clip of it may have, the usual one first.
NamesOf = Callable[[str], tuple[str, ...]]
# The fields of a question → its type, by which accuracy is told apart; None where it has none.
TypeOf = Callable[[Fields], str | None]
Read = Callable[[Sequence[Path]], Iterator[Said]]

_ID = ("question_id", "id")
_KNOWN = (*VIDEO, *SPAN, *_ID, "question", "answer", "type")
# `type` of ActivityNet-QA: 0 to 2 are of the question, the others of the answer to a free question.
_ACTIVITYNET_TYPES = (
    "motion", "spatial relationship", "temporal relationship", "yes/no", "color", "object", "location", "number",
    "other",
)  # fmt: skip
_FIRST_WORDS = ("what", "who", "how", "when", "where")  # the types of MSRVTT-QA and MSVD-QA


def _read(files: Sequence[Path], *, names_of: NamesOf, type_of: TypeOf) -> Iterator[Said]:
    """The questions of all files. Answers that stand apart from them are found by the id of their question.

    If any question has an answer, one without is left out. Raises DataError where a file is in none of the forms.
    """
    rows = _Rows()
    for path in different(files):
        for row in rows_of(path, _KNOWN):
            if isinstance(row, Note):
                yield row
            else:
                rows.add(*row)
    is_answered = bool(rows.answers) or any("answer" in fields for _, fields in rows.questions)
    for where, fields in rows.questions:
        whole = rows.with_answer(where, fields)
        if is_answered and "answer" not in whole:
            number = shown(_id_of(fields, where) or "")
            yield Refusal(f"{where}: question {number}", "no answer in the files is to this question")
        else:
            yield where, _item(whole, where, names_of=names_of, type_of=type_of)
    for number, (where, _) in rows.answers.items():
        if number not in rows.answered:
            yield Refusal(f"{where}: answer to {shown(number)}", "no question in the files has this question_id")


class _Rows:
    """Questions, and answers that stand apart from them by the id of their question."""

    def __init__(self) -> None:
        self.questions: list[Row] = []
        self.answers: dict[str, Row] = {}
        self.answered: dict[str, str] = {}  # id → where its question stands

    def add(self, where: str, said: Fields) -> None:
        """Raises DataError where it is neither a question nor an answer, or the question is answered twice."""
        fields = {name: value for name, value in said.items() if value != ""}
        number = _id_of(fields, where)
        if "question" in fields:
            self.questions.append((where, fields))
        elif "answer" not in fields or number is None:
            raise DataError(
                f"{where} has neither a question nor the answer to one: its fields are {shown(', '.join(fields))}",
                hint="a question has question, an answer that stands apart question_id and answer",
            )
        elif number in self.answers:
            raise DataError(f"{where} answers question {shown(number)}, and so does {self.answers[number][0]}")
        else:
            self.answers[number] = where, fields

    def with_answer(self, where: str, fields: Fields) -> Fields:
        """A question with its answer, where that stands apart. Raises DataError where it has another one, or another
        question has the same id."""
        number = _id_of(fields, where)
        if number is None or number not in self.answers:
            return fields
        answer_at, answer = self.answers[number]
        if "answer" in fields:
            raise DataError(f"{where} has an answer, and {answer_at} another one of the same question_id")
        if (first := self.answered.setdefault(number, where)) is not where:
            raise DataError(f"{first} and {where} have one question_id, and {answer_at} answers it")
        return {**answer, **fields}


def _item(fields: Fields, where: str, *, names_of: NamesOf, type_of: TypeOf) -> dict[str, Any]:
    item: dict[str, Any] = {
        "question": _text(fields["question"], "question", where),
        "video": names_of(video_name(video_in(fields, where))),
    }
    if (number := _id_of(fields, where)) is not None:
        item["question_id"] = number
    if "answer" in fields:
        item["answers"], item["answer_weights"] = _weighted(fields["answer"], where)
    try:
        question_type = type_of(fields)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    if question_type is not None:
        item["question_type"] = question_type
    return {**item, **{name: fields[name] for name in SPAN if name in fields}}


def _weighted(said: Any, where: str) -> tuple[list[str], list[float]]:
    """Different answers as they first come, and the share that each has of all: of yes, no, yes, yes 3/4 and 1/4.

    A list can stand as json in a text, which is all that csv and SQLite hold.
    """
    counts = Counter(_text(answer, "answer", where) for answer in listed(said))
    if not counts:
        raise DataError(f"{where}: answer is an empty list", hint="leave the field out")
    return list(counts), [count / counts.total() for count in counts.values()]


def _id_of(fields: Fields, where: str) -> str | None:
    said = field_of(fields, _ID)
    return None if said is None else _text(said, "question_id", where, number=True)


def _text(said: Any, name: str, where: str, *, number: bool = False) -> str:
    """A text that is not empty, without blanks around it. number: a whole number is a text, too."""
    if number and isinstance(said, int) and not isinstance(said, bool):
        return str(said)
    if not isinstance(said, str) or not (text := clean(said)):
        raise DataError(f"{where}: {name} is {shown(repr(said))}, and should be a text")
    return text


def _activitynet_type(fields: Fields) -> str | None:
    if "type" not in fields:
        return None
    number = whole_number(fields["type"])
    if number is None or not 0 <= number < len(_ACTIVITYNET_TYPES):
        raise ValueError(f"type is {shown(repr(fields['type']))}, and should be 0 to {len(_ACTIVITYNET_TYPES) - 1}")
    return _ACTIVITYNET_TYPES[number]


def _first_word(fields: Fields) -> str | None:
    word = str(fields["question"]).split(maxsplit=1)[:1]
    return word[0] if word and word[0] in _FIRST_WORDS else None


def _numbered(named: str, prefix: str) -> str:
    """The file of a video that is called by its number."""
    return f"{prefix}{int(named)}" if named.isascii() and named.isdecimal() and len(named) < 10 else named


def _of_activitynet(files: Sequence[Path]) -> Iterator[Said]:
    return _read(files, names_of=names_in_activitynet, type_of=_activitynet_type)


def _of_msrvtt(files: Sequence[Path]) -> Iterator[Said]:
    return _read(files, names_of=lambda named: (_numbered(named, "video"),), type_of=_first_word)


def _of_msvd(files: Sequence[Path]) -> Iterator[Said]:
    """Clips are called vid1, or as YouTube calls them: `youtube_mapping.txt` if there, says which are the same."""
    pairs = [pair for path in files if path.suffix == ".txt" for pair in _mapping(path)]
    other_name = {**dict(pairs), **{number: name for name, number in pairs}}

    def names_of(named: str) -> tuple[str, ...]:
        name = _numbered(named, "vid")
        return (name, other_name[name]) if name in other_name else (name,)

    return _read([path for path in files if path.suffix != ".txt"], names_of=names_of, type_of=_first_word)


def _mapping(path: Path) -> Iterator[tuple[str, str]]:
    for line, (text,) in text_lines(path):
        words = text.split()
        if len(words) != 2 or not re.fullmatch("vid[0-9]+", words[1]):
            raise DataError(
                f"{path} line {line} is not a line of youtube_mapping.txt: {shown(text)}",
                hint="each line is the name of a file and its number, such as -4wsuPCjDBc_5_15 vid1",
            )
        yield words[0], words[1]


_YU, _XU = "Yu et al. 2019; UMT, table 28", "Xu et al. 2017, table 1; UMT, table 28"


def _splits(corpus: str, read: Read, *, files: str, **expected: tuple[Counts, ...]) -> Iterator[Protocol]:
    for split, counts in expected.items():
        about = f"the {split} questions of {corpus}: {files}"
        name = f"{corpus.lower()}-{split}"
        yield Protocol(name, "question answering", about, read, counts)


PROTOCOLS: tuple[Protocol, ...] = (
    *_splits(
        "ActivityNet-QA",
        _of_activitynet,
        files="*_q.json and *_a.json",
        train=(Counts(3200, 32_000, _YU),),
        val=(Counts(1800, 18_000, _YU),),
        test=(Counts(800, 8000, _YU),),
    ),
    *_splits(
        "MSRVTT-QA",
        _of_msrvtt,
        files="*_qa.json",
        train=(Counts(6513, 158_581, _XU),),
        val=(Counts(497, 12_278, _XU),),
        test=(Counts(2990, 72_821, _XU),),
    ),
    *_splits(
        "MSVD-QA",
        _of_msvd,
        files="*_qa.json, and youtube_mapping.txt where clips have the names of YouTube",
        # UMT counts fewer questions than the publisher, and no videos
        train=(Counts(1200, 30_933, "Xu et al. 2017, table 1"), Counts(None, 29_883)),
        val=(Counts(250, 6415, _XU),),
        test=(Counts(520, 13_157, _XU),),
    ),
)
