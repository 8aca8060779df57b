"""A protocol: which annotation files say what is asked of a corpus, and how many videos and texts they should have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_prep.clip import Refusal

# (where it stands, fields). `video` or `key` names the clip (a tuple: by any of these names), `start` and `end` are
# seconds of its file, `group` is what makes two items count as the same. What is asked, by task:
#
#     retrieval           caption: a text (training: a row a pair) or a list of texts (testing: a row a video)
#     multiple choice     options: texts; answer: the place of the right one, from 0
#     question answering  question, question_id, question_type; answers: texts; answer_weights: a number for each, 1 in
#                         all; none of a question has an answer, or all have
#     detection           second; boxes: [x0, y0, x1, y1] in shares of the frame; for each box actions: the published
#                         numbers, and box_scores, where a detector found it
Row = tuple[str, dict[str, Any]]

Task = Literal["pretraining", "retrieval", "multiple choice", "question answering", "detection"]
TEXTS = ("caption", "options", "question", "boxes")  # the field that holds what the table of a protocol counts as texts


@dataclass(frozen=True)
class Counts:
    """How many videos and texts a published file has; None: nobody says it. by: who says so."""

    videos: int | None
    texts: int | None = None
    by: str = "UMT, table 28"


@dataclass(frozen=True)
class Protocol:
    """One split of one task of one corpus.

    read: the rows of the files, of which each form that is published is known; a Refusal of what is none, such as an
    answer without its question. Raises DataError for files of any other form.
    expected: the counts that papers used; a file with one of them is whole. None: there is no such number.
    first_s: only so many seconds from the start of a video are shown.
    """

    name: str
    task: Task
    about: str  # a line for `umt-data protocols`
    read: Callable[[Sequence[Path]], Iterator[Row | Refusal]]
    expected: tuple[Counts, ...] = ()
    first_s: float | None = None


def num_texts(fields: Mapping[str, Any]) -> int:
    """How many texts a row asks with: captions, options or boxes; a question is one."""
    said = next((fields[name] for name in TEXTS if name in fields), ())
    return 1 if isinstance(said, str) else len(said)
