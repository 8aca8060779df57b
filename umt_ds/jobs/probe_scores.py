"""The probes of one label field on features that are there: kNN, and heads that are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from umt_ds.config.probes import HeadGrid, ProbeKind, ProbeSettings
from umt_ds.evaluation.evaluator import Beat
from umt_ds.evaluation.frozen_features import title
from umt_ds.evaluation.metrics.classification import TOP
from umt_ds.evaluation.metrics.knn import NEIGHBOURS, TEMPERATURE, Features, knn_accuracy
from umt_ds.evaluation.probes.features import FrozenFeatures
from umt_ds.evaluation.probes.heads import AttentiveHead, LinearHead, initialised
from umt_ds.evaluation.probes.labels import SetLabels, match_labels
from umt_ds.evaluation.probes.selection import Selected, beats_of, select_and_score
from umt_ds.evaluation.probes.training import LabelledClips
from umt_ds.jobs.probe_table import FieldScores, ProbeScore, SeedScore
from umt_ds.terminal import progress


@dataclass(frozen=True)
class ProbedSet:
    """A set's features, and the labels of its clips in one field."""

    features: FrozenFeatures
    labels: SetLabels


def score_field(
    field: str, *, train: ProbedSet, val: ProbedSet, settings: ProbeSettings, device: torch.device, name: str
) -> FieldScores:
    """All probes of a label field. name: of the run, for the bars. Raises DataError as `match_labels` does."""
    labels = match_labels(field, train.labels, val.labels)
    ask = _Asked(train.features, val.features, labels.train, labels.val, len(labels.classes), settings, device)
    return FieldScores(
        title(field),
        labels.classes,
        items=int((labels.val >= 0).sum()),
        train=int((labels.train >= 0).sum()),
        without=int((labels.val < 0).sum()),
        unseen=labels.unseen,
        chance=100 * labels.chance,
        probes=tuple(ProbeScore(kind, tuple(ask.scores(kind, f"{name} {title(field)}"))) for kind in settings.kinds),
    )


@dataclass(frozen=True)
class _Asked:
    """Features and classes (see `MatchedLabels`) of both sets."""

    train: FrozenFeatures
    val: FrozenFeatures
    train_classes: Tensor
    val_classes: Tensor
    classes: int
    settings: ProbeSettings
    device: torch.device

    def scores(self, kind: ProbeKind, name: str) -> Iterator[SeedScore]:
        """One for each seed; of kNN, which draws nothing, one."""
        grid = self.settings.grid_of(kind)
        if grid is None:
            yield SeedScore(100 * self._knn())
            return
        for seed in range(self.settings.seeds):
            yield self._trained(kind, grid, seed, f"{name} {kind}")

    def _knn(self) -> float:
        """Share of the held-out clips whose class wins the vote of the training clips."""
        train, val = (
            Features(some.mean.to(self.device), {"label": classes.to(self.device)}, ())
            for some, classes in ((self.train, self.train_classes), (self.val, self.val_classes))
        )
        return knn_accuracy(train, val, label="label", k=NEIGHBOURS, temperature=TEMPERATURE)

    def _trained(self, kind: ProbeKind, grid: HeadGrid, seed: int, name: str) -> SeedScore:
        train, val = _labelled(kind, self.train, self.train_classes), _labelled(kind, self.val, self.val_classes)
        held_back = self.settings.held_back
        with _bar(beats_of(grid, len(train), len(val), held_back), name) as beat:
            make = partial(_head, kind, self.classes, self.train.shape[1], seed)
            found = select_and_score(
                make, grid, train, val, held_back=held_back, seed=seed, device=self.device, beat=beat
            )
        return _as_score(found, has_top5=self.classes > TOP)


def _labelled(kind: ProbeKind, some: FrozenFeatures, classes: Tensor) -> LabelledClips:
    """The clips that have a label."""
    numbers = (classes >= 0).nonzero()[:, 0]
    features = some.tokens if kind == "attentive" else some.mean.__getitem__
    return LabelledClips(features, numbers, classes[numbers])


def _head(kind: ProbeKind, classes: int, width: int, seed: int, clips: LabelledClips) -> nn.Module:
    """A new head for these training clips."""
    if kind == "attentive":
        return initialised(AttentiveHead(width, classes=classes), seed)
    return initialised(LinearHead(clips.rows(clips.numbers), classes=classes), seed)


def _as_score(found: Selected, *, has_top5: bool) -> SeedScore:
    taken = next(one for one in found.grid if one.point == found.taken)
    return SeedScore(
        top1=100 * found.val.accuracy,
        top5=100 * found.val.top5 / found.val.items if has_top5 else None,
        taken=found.taken,
        held_back=100 * taken.held_back.accuracy,
        best=100 * found.best.accuracy,
        best_point=found.best_point,
        grid=tuple(
            {**one.point._asdict(), "held_back": 100 * one.held_back.accuracy, "val": 100 * one.val.accuracy}
            for one in found.grid
        ),
    )


@contextmanager
def _bar(total: int, name: str) -> Iterator[Beat]:
    """On stderr, over the steps of a training."""
    with progress(total=total, unit="step", desc=name) as bar:

        def beat() -> None:
            bar.update(1)

        yield beat
