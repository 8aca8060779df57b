"""How a classifier in training is tested: from the settings of an evaluation to its evaluator."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

from torch import nn

from umt_ds.classes import are_names
from umt_ds.classes.matching import matched_by_number
from umt_ds.config.evaluation import ClassificationEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.data.clip_request import ClipRequest, published_frames, stored_frames
from umt_ds.data.order.views import Views
from umt_ds.data.shards.storage import as_path
from umt_ds.distributed.collectives import is_first_rank
from umt_ds.errors import ConfigError, some
from umt_ds.evaluation.classification import ClassificationEvaluator
from umt_ds.evaluation.encode import Encode
from umt_ds.evaluation.frozen_features import labels_found
from umt_ds.tasks.evaluators import evaluation_set, trained_on
from umt_ds.tasks.recognition.classes import HeadClasses, check_class_list, class_list_in
from umt_ds.tasks.recognition.task import RecognitionModule

log = logging.getLogger("umt_ds")


def classification_evaluator(
    name: str, settings: ClassificationEvaluation, run: RunConfig, head: HeadClasses
) -> ClassificationEvaluator:
    """Every clip in `segments` x `crops` views. Raises ConfigError for a set whose class list is not that of the head
    or that has no such labels, and DataError for what is no set."""
    task, shards = run.task, as_path(settings.shards)
    assert isinstance(task, RecognitionConfig)
    where = f"evaluation.{name}.shards: {shards}"
    names = class_list_in(shards, task.label)
    check_class_list(names, head, where=where)
    if task.label not in (found := labels_found(shards)):
        raise ConfigError(
            f"{where}: its first clips have no label {task.label!r} (task.label)",
            hint=f"fields with whole numbers there: {some(found) or 'none'}",
        )
    if head.are_named and not are_names(names) and is_first_rank():
        log.warning("%s", matched_by_number([where], "the head"))
    items = evaluation_set(name, shards, testing_request(settings, task, classes=head.count), settings, run)
    return ClassificationEvaluator(
        name,
        items,
        logits_of,
        classes=head.count,
        names=head.names if head.are_named else (),
        num_workers=run.data.workers,
        about={"class_list": _class_list(names, head), **trained_on(name, items, run)},
    )


def _class_list(names: Sequence[str], head: HeadClasses) -> str:
    """For the protocol: a hash of the names of the head, the same for the same names in the same order; and whether the
    set, which has these names, could be held against them."""
    if not head.are_named:
        return "not checked: the labels of the training sets have no names"
    listed = hashlib.sha256("\n".join(head.names).encode()).hexdigest()[:16]
    return listed if are_names(names) else f"{listed}, not checked: the set does not name its classes"


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
