"""How a classifier in training is tested: from the settings of an evaluation to its evaluator."""

from __future__ import annotations

from torch import nn

from umt_ds.config.evaluation import ClassificationEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.data.evaluation import ClipRequest, published_frames, stored_frames
from umt_ds.data.order.views import Views
from umt_ds.data.shards.storage import as_path
from umt_ds.evaluation.classification import ClassificationEvaluator
from umt_ds.evaluation.encode import Encode
from umt_ds.tasks.evaluators import evaluation_set, trained_on
from umt_ds.tasks.recognition.classes import head_classes
from umt_ds.tasks.recognition.task import RecognitionModule


def classification_evaluator(name: str, settings: ClassificationEvaluation, run: RunConfig) -> ClassificationEvaluator:
    """Every clip in `segments` x `crops` views. Raises DataError for what is no set."""
    task = run.task
    assert isinstance(task, RecognitionConfig)
    head = head_classes(run)
    items = evaluation_set(as_path(settings.shards), testing_request(settings, task, classes=head.count), settings, run)
    return ClassificationEvaluator(
        name,
        items,
        logits_of,
        classes=head.count,
        names=head.names,
        num_workers=run.data.workers,
        about=trained_on(name, items, run),
    )


def testing_request(settings: ClassificationEvaluation, task: RecognitionConfig, *, classes: int) -> ClipRequest:
    """The views of published testing. Source: METHOD.md, "Views in testing"."""
    frames, side = task.clip_shape
    views = Views(settings.rule, frames, settings.segments)
    return ClipRequest(
        published_frames(views) if settings.frames == "published" else stored_frames(views),
        side,
        view="testing",
        antialias=False,
        crops=settings.crops,
        label_fields=[task.label],
        needs_labels=True,
        num_classes=classes,
    )


def logits_of(module: nn.Module) -> Encode:
    """Of views u8 [B,T,H,W,3], wherever the module lies: [B,C]."""
    assert isinstance(module, RecognitionModule)
    return lambda pixels: module.logits(pixels.to(next(module.parameters()).device))
