"""The door of stage 1: what the rest of the house may ask of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from umt_ds.batch import Media
from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.evaluation import EvaluationConfig, KnnEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.stage1 import Stage1Config
from umt_ds.engine.memory import ELEMENT
from umt_ds.errors import ConfigError
from umt_ds.evaluation.embedding import Embedder
from umt_ds.evaluation.encode import Encode
from umt_ds.evaluation.evaluator import Evaluator
from umt_ds.evaluation.exhibits import Exhibit
from umt_ds.evaluation.frozen_features import pooled_student
from umt_ds.evaluation.prediction import Asked, Predictor
from umt_ds.evaluation.probes.features import all_tokens
from umt_ds.tasks.cost import TaskCost
from umt_ds.tasks.evaluators import knn_evaluator
from umt_ds.tasks.probing import feature_embedder
from umt_ds.tasks.room import ExhibitOptions, Say
from umt_ds.tasks.stage1.cost import stage1_cost
from umt_ds.tasks.stage1.probe import Stage1Probe
from umt_ds.tasks.stage1.task import Stage1Module, Stage1Task


def tokenizer(run: RunConfig) -> None:
    """No text is read."""


def answer_tokenizer(run: RunConfig) -> None:
    """No answer is learned."""


def num_classes(run: RunConfig) -> None:
    """No label is learned."""


def build(
    run: RunConfig, *, device: torch.device, precision: Precision, pieces: int, classes: Sequence[str]
) -> Stage1Task:
    """See `TaskRoom`."""
    return Stage1Task(_settings(run), seed=run.seed, device=device, precision=precision)


def cost(run: RunConfig, precision: Precision, shares: Mapping[Media, float]) -> TaskCost:
    """See `TaskRoom`."""
    return stage1_cost(_settings(run), ELEMENT[precision])


def evaluators(run: RunConfig, classes: Sequence[str]) -> Sequence[Evaluator]:
    """See `TaskRoom`."""
    return [_evaluator(name, settings, run) for name, settings in run.evaluation.items()]


def _evaluator(name: str, settings: EvaluationConfig, run: RunConfig) -> Evaluator:
    assert isinstance(settings, KnnEvaluation)
    return knn_evaluator(name, settings, run, encoder_of=_features)


def _features(module: nn.Module) -> Encode:
    assert isinstance(module, Stage1Module)
    return pooled_student(module.encoder)


def tokens(run: RunConfig, module: nn.Module) -> Encode:
    """See `TaskRoom`."""
    assert isinstance(module, Stage1Module)
    return all_tokens(module.encoder)


def embedder(run: RunConfig, module: nn.Module) -> Embedder:
    """What kNN votes by."""
    assert isinstance(module, Stage1Module)
    return feature_embedder(run, module.encoder, pooled_student(module.encoder))


def exhibits(folder: Path, run: RunConfig, options: ExhibitOptions, say: Say) -> Iterator[Exhibit]:
    """Masks over held-out clips, and what the features know (kNN)."""
    probe = Stage1Probe(folder, run, _settings(run), options.train, options.val, options.max_clips)
    say("drawing masks over held-out clips")
    yield probe.masked_clips()
    if options.probe:
        yield probe.probe(say)


def predictor(run: RunConfig, asked: Asked, classes: Sequence[str]) -> Predictor:
    """See `TaskRoom`."""
    raise ConfigError(
        f"run {run.name} is of stage 1, which learns features and no names: it says nothing of videos",
        hint="a run of recognition, stage 2, retrieval or question answering; umt probe asks what features know",
    )


def _settings(run: RunConfig) -> Stage1Config:
    assert isinstance(run.task, Stage1Config)
    return run.task
