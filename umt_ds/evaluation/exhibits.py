"""What a report can show of a trained run, as data: rooms of tasks make it, `umt_ds/report` draws it.

What cannot be made (no held-out clips, no labels, no checkpoint) is an exhibit too, which says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from umt_ds.errors import UmtError
from umt_ds.evaluation.evaluator import Scores
from umt_ds.evaluation.frozen_features import ProbeResult
from umt_ds.evaluation.masked import MaskedClip
from umt_ds.evaluation.metrics.retrieval import Answer, RetrievalResult, RetrievalScores
from umt_ds.evaluation.prediction import Choice


@dataclass(frozen=True)
class Remark:
    """A sentence in the place of a measurement."""

    title: str
    text: str


@dataclass(frozen=True)
class NotMade:
    """Why an exhibit cannot be made."""

    title: str
    error: UmtError


@dataclass(frozen=True)
class MaskedClips:
    """Held-out clips under a mask. visible: patches that the student sees, of all."""

    clips: list[MaskedClip]
    mask_kind: str
    visible: int


@dataclass(frozen=True)
class KnnProbe:
    """kNN accuracy of frozen features. where: the checkpoint and the shards that were used, by name."""

    result: ProbeResult
    where: dict[str, str]


@dataclass(frozen=True)
class Retrieved:
    """Held-out clips, what captions found among them, and some of it with the frames that are needed to show it."""

    shards: Path
    checkpoint: Path
    found: RetrievalResult
    scores: RetrievalScores
    answers: list[Answer]
    frames: dict[int, Tensor]  # u8 [T,H,W,3] of each video that is shown
    resized: str  # how frames were
    again: Scores | None = None  # by what ranks besides similarity: re-ranking, dual softmax
    reranked_ranks: tuple[int, ...] = ()  # of the answers, after re-ranking, from 1


@dataclass(frozen=True)
class NamedClip:
    """A held-out clip, and what a model takes it for: classes with probabilities, the likeliest first."""

    key: str
    label: int
    likeliest: tuple[tuple[int, float], ...]
    frames: Tensor  # u8 [T,H,W,3] of one view

    @property
    def is_right(self) -> bool:
        """Whether it is taken for what it is."""
        return self.likeliest[0][0] == self.label


@dataclass(frozen=True)
class NamedClips:
    """What a classifier takes held-out clips for: i64 [C,C], a row for each class that they are. names: of the C."""

    checkpoint: Path
    names: tuple[str, ...]
    confusion: Tensor
    scores: Scores
    right: tuple[NamedClip, ...]  # some that are named rightly, of different classes
    wrong: tuple[NamedClip, ...]  # those that are named wrongly with the most confidence


@dataclass(frozen=True)
class AnsweredClip:
    """A held-out clip, and what a model answers: the likeliest first. question: None where captions are chosen among.
    right: the right answers."""

    key: str
    question: str | None
    choices: tuple[Choice, ...]
    right: tuple[str, ...]
    is_right: bool
    frames: Tensor  # u8 [T,H,W,3]


@dataclass(frozen=True)
class AnsweredClips:
    """What a model answers to held-out questions, or which captions it chooses; and some of them."""

    title: str
    checkpoint: Path
    scores: Scores
    right: tuple[AnsweredClip, ...]
    wrong: tuple[AnsweredClip, ...]


Exhibit = Remark | NotMade | MaskedClips | KnnProbe | Retrieved | NamedClips | AnsweredClips


def or_why_not(title: str, make: Callable[[], Exhibit]) -> Exhibit:
    """What `make` gives, or why it cannot."""
    try:
        return make()
    except UmtError as error:
        return NotMade(title, error)
