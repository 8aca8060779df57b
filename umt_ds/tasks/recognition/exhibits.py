"""What a report shows of a classifier: what it takes held-out clips for, and some of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from umt_ds.config.evaluation import ClassificationEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.data.order.frames import middle
from umt_ds.engine.checkpoint_files import read_checkpoint_weights
from umt_ds.engine.manifest import read_checkpoint_manifest, resolve_checkpoint
from umt_ds.evaluation.bar import bar_of
from umt_ds.evaluation.classification import Classified
from umt_ds.evaluation.encode import ALONE
from umt_ds.evaluation.exhibits import Exhibit, NamedClip, NamedClips, or_why_not
from umt_ds.evaluation.metrics.classification import TOP
from umt_ds.tasks.recognition.classes import HeadClasses, head_classes
from umt_ds.tasks.recognition.evaluators import classification_evaluator
from umt_ds.tasks.recognition.task import RecognitionModule, module_of
from umt_ds.tasks.room import ExhibitOptions
from umt_ds.tasks.sources import held_out_beside, training_shards
from umt_ds.weights.load import load_strict

_SHOWN = 6  # clips that are named rightly, and as many that are not


def named_clips(run: Path, config: RunConfig, options: ExhibitOptions) -> Exhibit:
    """What held-out clips are taken for, or why that cannot be said."""
    return or_why_not("What is taken for what", lambda: _named_clips(run, config, options))


def _named_clips(run: Path, config: RunConfig, options: ExhibitOptions) -> NamedClips:
    checkpoint = resolve_checkpoint(run)
    manifest = read_checkpoint_manifest(checkpoint)
    head = head_classes(config, manifest.classes)
    name, settings = _judged_on(config, options)
    evaluator = classification_evaluator(name, settings, config, head)
    with bar_of(evaluator.items, name=f"name {evaluator.items.shards.name}") as beat:
        module = _trained(checkpoint, config, head, averaged=settings.ema)
        found = evaluator.classify(module, ALONE, beat=beat)
    scores = evaluator.scores(found, ALONE, predictions=False)
    right, wrong = some_right(found), most_confident_wrong(found)
    shown = _shown(evaluator.items, found, [*right, *wrong])
    return NamedClips(
        checkpoint=checkpoint,
        names=head.names or tuple(map(str, range(head.count))),
        confusion=found.confusion,
        scores=scores.of_average(manifest.ema_decay) if settings.ema and manifest.ema_decay else scores,
        right=tuple(shown[: len(right)]),
        wrong=tuple(shown[len(right) :]),
    )


def _judged_on(config: RunConfig, options: ExhibitOptions) -> tuple[str, ClassificationEvaluation]:
    """The set of the first evaluation of its kind, or the one that is named, or the folder `val` beside the training
    set. Raises DataError where there is none."""
    own = ((name, one) for name, one in config.evaluation.items() if isinstance(one, ClassificationEvaluation))
    name, settings = next(own, (None, None))
    if name is None or settings is None or options.val is not None or options.train is not None:
        hint = "name labelled shards with --val SHARDS"
        train = options.train or training_shards(config, hint=hint)
        val = options.val or held_out_beside(train, ["val"], hint=hint)
        name, settings = "report", ClassificationEvaluation(kind="classification", shards=str(val))
    limit = min(settings.limit or options.max_clips, options.max_clips)
    return name, settings.model_copy(update={"limit": limit})


def _trained(checkpoint: Path, config: RunConfig, head: HeadClasses, *, averaged: bool) -> RecognitionModule:
    """averaged: the moving average of its weights."""
    assert isinstance(config.task, RecognitionConfig)
    module = module_of(config.task, head.count)
    load_strict(module, read_checkpoint_weights(checkpoint, averaged=averaged), where=str(checkpoint))
    return module.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def some_right(found: Classified) -> list[int]:
    """Rows of clips that are named rightly, the first one of each of some classes."""
    is_right = found.ranked[:, 0] == found.labels
    first: dict[int, int] = {}
    for row in is_right.nonzero()[:, 0].tolist():
        first.setdefault(int(found.labels[row]), row)
    rows = [first[label] for label in sorted(first)]
    return [rows[place] for place in middle(len(rows), count=min(_SHOWN, len(rows)))] if rows else []


def most_confident_wrong(found: Classified) -> list[int]:
    """Rows of clips that are named wrongly, the most confident first."""
    rows = (found.ranked[:, 0] != found.labels).nonzero()[:, 0]
    confidence = found.probabilities[rows, found.ranked[rows, 0]]
    order = confidence.argsort(descending=True, stable=True)[:_SHOWN]
    most: list[int] = rows[order].tolist()
    return most


def _shown(items: EvaluationSet, found: Classified, rows: Sequence[int]) -> list[NamedClip]:
    infos = [found.encoded.items[row] for row in rows]
    views = items.views_of([item.number for item in infos])
    middle_view = items.request.num_views // 2
    clips = []
    for row, item in zip(rows, infos, strict=True):
        classes = found.ranked[row, :TOP].tolist()
        shares = found.probabilities[row, classes].tolist()
        frames = views[item.number][middle_view]
        clips.append(NamedClip(item.key, item.labels[0], tuple(zip(classes, shares, strict=True)), frames))
    return clips
