"""What judges a model: an evaluator is given a module and a world, and gives scores. It knows nothing of training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn

from umt_ds.data.evaluation import EvaluationSet
from umt_ds.data.evaluation import LeftOut as LeftOut  # part of this interface
from umt_ds.distributed.world import World
from umt_ds.evaluation.published import gaps

Beat = Callable[[], None]  # called after each batch: a sign of life for the watchdog


@runtime_checkable
class CountsBeats(Protocol):
    """A beat that shows how far the work has come."""

    def __call__(self) -> None: ...

    def begin(self, what: str, total: int) -> None:
        """So many beats of another kind of work follow."""


def begins(beat: Beat, what: str, total: int) -> None:
    """Tell whoever counts beats, if anybody does."""
    if isinstance(beat, CountsBeats):
        beat.begin(what, total)


@dataclass(frozen=True)
class Scores:
    """What an evaluator found, the same on all ranks. A score says what it covers."""

    name: str  # of the evaluation, as the run calls it
    values: Mapping[str, float]  # metric → number, the larger the better
    items: int  # that were scored, each once
    left_out: tuple[LeftOut, ...] = ()
    # everything one must know to repeat the numbers: data fingerprint, views, frame rule, resize rule …; JSON types
    protocol: Mapping[str, Any] = field(default_factory=dict)
    # columns by name, of equal length, a row for each question that was asked: an item of the set, in its order; in
    # retrieval a caption; only where they were asked for
    predictions: Mapping[str, list[Any]] | None = None
    ranks: Mapping[str, float] = field(default_factory=dict)  # the smaller the better: none chooses a checkpoint
    # what kind of item (of question) → how many of its kind there are, `items`, and `values` of those alone
    by_type: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    # what else ranked the same: `reranked` where `values` has `reranked_mean` beside `mean`; for tables
    scorers: tuple[str, ...] = ()

    @property
    def gaps(self) -> tuple[str, ...]:
        """How what was scored differs from the published split that the set is of."""
        return tuple(gaps(self.protocol))

    @property
    def is_partial(self) -> bool:
        """Whether an item is missing in the numbers, or they are not of a whole published split."""
        return bool(self.left_out or self.gaps)

    @property
    def partial_text(self) -> str:
        """What is missing; empty where nothing is."""
        return "; ".join([*([f"{len(self.left_out)} left out"] if self.left_out else []), *self.gaps])

    def of_average(self, decay: float) -> Scores:
        """The same scores, which say that they are of averaged weights (`optim.ema_decay`)."""
        return replace(self, protocol={**self.protocol, "weights": f"averaged (decay {decay:g})"})


class Evaluator(Protocol):
    """One evaluation of a run. Every rank calls it with the same module in evaluation mode, and makes the same number
    of forward passes, because ZeRO stage 3 gathers weights in them. It names the items that it leaves out, and why, in
    the log: once, however often it is run."""

    @property
    def name(self) -> str:
        """As the run calls it (`evaluation.NAME`)."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of its numbers, known before it runs."""

    @property
    def sets(self) -> Sequence[EvaluationSet]:
        """All that it looks at."""

    def run(self, module: nn.Module, world: World, *, beat: Beat, predictions: bool = False) -> Scores:
        """Score the module that DeepSpeed wraps (`Task.module`). Raises UmtError on all ranks, or on none.

        predictions: also give what was answered for each item.
        """


@dataclass(frozen=True)
class KeptWork:
    """Where an evaluator may keep what it has finished, so that the same command goes on there after a kill. weights: a
    hash of those that it judges."""

    folder: Path
    weights: str


@runtime_checkable
class Resumable(Protocol):
    """An evaluator that can keep what it has finished. Who tells it where removes it, when the scores are written."""

    def resuming(self, kept: KeptWork) -> Evaluator:
        """The same evaluator, which keeps its work there."""


def try_sets(evaluators: Iterable[Evaluator]) -> None:
    """Look into all sets before a model is made: at the labels and captions of every clip, and at the first clip.
    Raises DataError as `EvaluationSet.try_records` and `try_first` do."""
    for evaluator in evaluators:
        for items in evaluator.sets:
            items.try_first()
            items.try_records()
