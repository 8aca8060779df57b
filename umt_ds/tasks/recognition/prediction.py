"""What a classifier says of videos without labels: its classes, with their probabilities."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from umt_ds.config.evaluation import ClassificationEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.data.order.views import MOST_CLIPS
from umt_ds.errors import ConfigError
from umt_ds.evaluation.metrics.classification import mean_probabilities
from umt_ds.evaluation.prediction import Asked, Predict, Prediction, Predictor, likeliest
from umt_ds.tasks.recognition.classes import head_classes
from umt_ds.tasks.recognition.evaluators import logits_of, testing_request

log = logging.getLogger("umt_ds")

_LONG_TEST = "test"  # what shipped recipes call it


def class_predictor(run: RunConfig, asked: Asked, classes: Sequence[str]) -> Predictor:
    """The classes of a run by name, over the views in which its evaluations test it. classes: of the checkpoint.

    Raises ConfigError for what a classifier is not asked, and for views that its rule does not have.
    """
    asked.refuse_all_but(("--classes", "--segments", "--crops"), says="names classes")
    assert isinstance(run.task, RecognitionConfig)
    head = head_classes(run, classes)
    if not head.are_named:
        log.warning("nobody names the %d classes of %s: they are told by number (--classes FILE)", head.count, run.name)
    names = head.names if head.are_named else [f"class {number}" for number in range(head.count)]
    settings = _tested_as(run, asked)
    request = testing_request(settings, run.task, classes=head.count)

    def of(module: nn.Module) -> Predict:
        logits = logits_of(module)

        @torch.no_grad()
        def predict(views: Tensor) -> list[Prediction]:
            (probability,) = mean_probabilities(logits(views), views=len(views)).cpu()
            return [Prediction(None, likeliest(names, {"probability": probability}, top=asked.top))]

        return predict

    return Predictor(request, settings.ema, of)


def _tested_as(run: RunConfig, asked: Asked) -> ClassificationEvaluation:
    """The evaluation `test` of a run, else its first one, else one view: with the frames of all that a video has."""
    known = {name: one for name, one in run.evaluation.items() if isinstance(one, ClassificationEvaluation)}
    plain = ClassificationEvaluation(kind="classification", shards="none")
    settings = known.get(_LONG_TEST) or next(iter(known.values()), plain)
    segments, crops = asked.segments or settings.segments, asked.crops or settings.crops
    if segments > (most := MOST_CLIPS[settings.rule]):
        raise ConfigError(
            f"--segments {segments}: the frames of this run are those of the rule {settings.rule}, which has at most "
            f"{most} segments",
            hint=f"--segments {most}",
        )
    return settings.model_copy(update={"frames": "published", "segments": segments, "crops": crops})
