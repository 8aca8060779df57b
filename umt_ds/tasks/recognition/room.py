"""The door of recognition: what the rest of the house may ask of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from umt_ds.batch import Media
from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.evaluation import ClassificationEvaluation, EvaluationConfig, KnnEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.engine.memory import ELEMENT
from umt_ds.evaluation.embedding import Embedder
from umt_ds.evaluation.encode import Encode
from umt_ds.evaluation.evaluator import Evaluator
from umt_ds.evaluation.exhibits import Exhibit
from umt_ds.evaluation.prediction import Asked, Predictor
from umt_ds.evaluation.probes.features import all_tokens
from umt_ds.tasks.cost import TaskCost
from umt_ds.tasks.evaluators import knn_evaluator
from umt_ds.tasks.probing import feature_embedder
from umt_ds.tasks.recognition.classes import HeadClasses, head_classes, warn_of_unchecked
from umt_ds.tasks.recognition.cost import recognition_cost
from umt_ds.tasks.recognition.evaluators import classification_evaluator
from umt_ds.tasks.recognition.exhibits import named_clips
from umt_ds.tasks.recognition.prediction import class_predictor
from umt_ds.tasks.recognition.task import RecognitionModule, RecognitionTask
from umt_ds.tasks.room import ExhibitOptions, Say


def tokenizer(run: RunConfig) -> None:
    """No text is read."""


def answer_tokenizer(run: RunConfig) -> None:
    """No answer is learned."""


def num_classes(run: RunConfig) -> int:
    """Rows of the head."""
    return head_classes(run).count


def build(
    run: RunConfig, *, device: torch.device, precision: Precision, pieces: int, classes: Sequence[str]
) -> RecognitionTask:
    """See `TaskRoom`."""
    head = head_classes(run, classes)
    warn_of_unchecked(head)
    return RecognitionTask(_settings(run), head, seed=run.seed, device=device)


def cost(run: RunConfig, precision: Precision, shares: Mapping[Media, float]) -> TaskCost:
    """See `TaskRoom`."""
    return recognition_cost(_settings(run), head_classes(run).count, ELEMENT[precision])


def evaluators(run: RunConfig, classes: Sequence[str]) -> Sequence[Evaluator]:
    """See `TaskRoom`."""
    head = head_classes(run, classes)
    return [_evaluator(name, settings, run, head) for name, settings in run.evaluation.items()]


def _evaluator(name: str, settings: EvaluationConfig, run: RunConfig, head: HeadClasses) -> Evaluator:
    if isinstance(settings, KnnEvaluation):
        return knn_evaluator(name, settings, run, encoder_of=_features, features=_POOLED)
    assert isinstance(settings, ClassificationEvaluation)
    return classification_evaluator(name, settings, run, head)


_POOLED = "mean of all tokens of the clip, after fc_norm"


def _features(module: nn.Module) -> Encode:
    assert isinstance(module, RecognitionModule)
    return lambda pixels: module.features(pixels.to(next(module.parameters()).device))


def tokens(run: RunConfig, module: nn.Module) -> Encode:
    """See `TaskRoom`. Its encoder has no last norm: `fc_norm` belongs to the head."""
    assert isinstance(module, RecognitionModule)
    return all_tokens(module)


def embedder(run: RunConfig, module: nn.Module) -> Embedder:
    """What kNN votes by."""
    assert isinstance(module, RecognitionModule)
    return feature_embedder(run, module, _features(module), features=_POOLED)


def exhibits(folder: Path, run: RunConfig, options: ExhibitOptions, say: Say) -> Iterator[Exhibit]:
    """What held-out clips are taken for."""
    say("naming held-out clips")
    yield named_clips(folder, run, options)


def predictor(run: RunConfig, asked: Asked, classes: Sequence[str]) -> Predictor:
    """Its classes."""
    return class_predictor(run, asked, classes)


def _settings(run: RunConfig) -> RecognitionConfig:
    assert isinstance(run.task, RecognitionConfig)
    return run.task
