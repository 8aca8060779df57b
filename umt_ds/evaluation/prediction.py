"""What is asked of videos without labels, and what a model says of them: `umt predict` asks, rooms of tasks answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from umt_ds.data.clip_request import ClipRequest
from umt_ds.data.shards.sample_record import Clean
from umt_ds.errors import ConfigError, DecodeError, NonFiniteError, quoted


@dataclass(frozen=True)
class Asked:
    """What somebody wants to know of each video. top: so many of the likeliest. match: score captions with the fusion
    encoder, too. answers: the list to choose from. classes: names for rows of a head that has none. segments, crops:
    views of a classifier; None: as its evaluations test it. beams: of answers that are written freely."""

    captions: tuple[str, ...] = ()
    match: bool = False
    questions: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    beams: int | None = None
    classes: tuple[str, ...] = ()
    segments: int | None = None
    crops: int | None = None
    top: int = 5

    def refuse_all_but(self, taken: Collection[str], *, says: str) -> None:
        """Raises ConfigError for what a run does not take. taken: options that it does. says: what it says."""
        given = {
            "--caption": self.captions,
            "--match": self.match,
            "--question": self.questions,
            "--answers": self.answers,
            "--beams": self.beams,
            "--classes": self.classes,
            "--segments": self.segments,
            "--crops": self.crops,
        }
        for option, value in given.items():
            if value and option not in taken:
                takes = f"it takes {', '.join(taken)}" if taken else "it takes no options"
                raise ConfigError(f"{option}: this run {says}", hint=f"leave {option} away; {takes}")


@dataclass(frozen=True)
class Choice:
    """One of the things that may be said of a video. numbers: by name, how well it fits."""

    text: str
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Prediction:
    """What is said of a video, the likeliest first. question: None where none was asked."""

    question: str | None
    choices: tuple[Choice, ...]


Predict = Callable[[Tensor], Sequence[Prediction]]
"""The views of one video, u8 [V,T,side,side,3], to one prediction, or one for each question."""


@dataclass(frozen=True)
class Predictor:
    """How a run answers. request: which views of a video it wants. averaged: whether it is the moving average of the
    weights that its evaluations judge. of: what answers with the trained module, in evaluation mode."""

    request: ClipRequest
    averaged: bool
    of: Callable[[nn.Module], Predict]


def likeliest(texts: Sequence[str], numbers: Mapping[str, Tensor], *, top: int) -> tuple[Choice, ...]:
    """The `top` texts with the largest of the last kind of number, best first. numbers: f32 [N] each, by name."""
    order = list(numbers.values())[-1].argsort(descending=True, stable=True)[:top].tolist()
    return tuple(Choice(texts[n], {name: float(values[n]) for name, values in numbers.items()}) for n in order)


def cleaned(text: str, clean: Clean, *, what: str) -> str:
    """A text of somebody's as a tokenizer cleans it. Raises ConfigError where nothing is left of it. what: it is."""
    try:
        said = clean(text)
    except DecodeError as error:
        raise ConfigError(f"{what} {quoted(text)}: {error.what}") from error
    if not said:
        raise ConfigError(f"{what} {quoted(text)} says nothing", hint="leave it out")
    return said


def number_text(kind: str, number: float) -> str:
    """A number of a choice for a reader: probabilities in percent, others as they are."""
    return f"{100 * number:.1f} %" if kind in ("probability", "match") else f"{number:.3f}"


def refuse_no_numbers(predictions: Sequence[Prediction], *, of: str) -> None:
    """Raises NonFiniteError where something that is said is NaN or infinite. of: the video, for the message."""
    numbers = [number for said in predictions for choice in said.choices for number in choice.numbers.values()]
    if not all(map(math.isfinite, numbers)):
        raise NonFiniteError(
            f"what the model says of {of} is not a number",
            hint="the weights or the activations have left the range of their precision: ask another checkpoint",
            again=True,
        )
