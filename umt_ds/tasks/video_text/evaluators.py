"""What judges a model of video and text: the same evaluations for stage 2 and for retrieval."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from umt_ds.config.evaluation import EvaluationConfig, KnnEvaluation, MultipleChoiceEvaluation, RetrievalEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.evaluation.encode import Encode
from umt_ds.evaluation.evaluator import Evaluator
from umt_ds.evaluation.frozen_features import pooled_student
from umt_ds.models.video_text import VideoTextModel
from umt_ds.tasks.evaluators import knn_evaluator
from umt_ds.tasks.video_text.choice import multiple_choice_evaluator
from umt_ds.tasks.video_text.retrieval import retrieval_evaluator


def video_text_evaluators(run: RunConfig) -> Sequence[Evaluator]:
    """One for each evaluation of a run of either task. Raises ConfigError or DataError for sets that cannot be used."""
    return [_evaluator(name, settings, run) for name, settings in run.evaluation.items()]


def _evaluator(name: str, settings: EvaluationConfig, run: RunConfig) -> Evaluator:
    if isinstance(settings, KnnEvaluation):
        return knn_evaluator(name, settings, run, encoder_of=_features)
    if isinstance(settings, MultipleChoiceEvaluation):
        return multiple_choice_evaluator(name, settings, run)
    assert isinstance(settings, RetrievalEvaluation)
    return retrieval_evaluator(name, settings, run)


def _features(module: nn.Module) -> Encode:
    assert isinstance(module, VideoTextModel)
    return pooled_student(module.vision_encoder.encoder)
