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
#     detection           movie, second; what is true there: boxes: [x0, y0, x1, y1] in shares of the frame, and for
#                         each box actions: the published numbers, and person_ids. What a detector found, where there is
#                         a file of that: detected_boxes, and box_scores for each
#
# With a `second`, the item says by key_frame which of its frames, from 0, is the one there, and by stored_fps how many
# frames a second it has.
Row = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Note:
    """What a user should know of the files of a protocol, once: fields that nobody reads."""

    text: str


Said = Row | Refusal | Note

Task = Literal["pretraining", "retrieval", "multiple choice", "question answering", "detection"]
TEXTS = ("caption", "options", "question", "boxes")  # the field that holds what the table of a protocol counts as texts


@dataclass(frozen=True)
class Counts:
    """How many videos and texts a published file has; None: nobody says it. by: who says so."""

    videos: int | None
    texts: int | None = None
    by: str = "UMT, table 28"


@dataclass(frozen=True)
class ClassNames:
    """names: in the order of the published numbers, which begin with 1; "" where nobody says it. scored: the numbers
    that count in a score; none where all do."""

    names: tuple[str, ...]
    scored: tuple[int, ...] = ()


@dataclass(frozen=True)
class Protocol:
    """One split of one task of one corpus.

    read: the rows of the files, of which each form that is published is known; a Refusal of what is none, such as an
    answer without its question; a Note of what is not used. Raises DataError for files of any other form.
    expected: the counts that papers used; a file with one of them is whole. None: there is no such number.
    cut_s: the seconds of each video to which public copies of it are cut. The seconds of rows are those of the whole
    video, and in a file that is no longer than this they are counted from its start.
    class_names: those that the files say, if any of them does.
    first_s: only so many seconds from the start of a video are shown.
    captions: paragraph where all texts of a video are one, as a score of it has to say.
    """

    name: str
    task: Task
    about: str  # a line for `umt-data protocols`
    read: Callable[[Sequence[Path]], Iterator[Said]]
    expected: tuple[Counts, ...] = ()
    cut_s: tuple[float, float] | None = None
    class_names: Callable[[Sequence[Path]], ClassNames | None] | None = None
    first_s: float | None = None
    captions: Literal["paragraph"] | None = None


def num_texts(fields: Mapping[str, Any]) -> int:
    """How many texts a row asks with: captions, options or boxes; a question is one."""
    said = next((fields[name] for name in TEXTS if name in fields), ())
    return 1 if isinstance(said, str) else len(said)
