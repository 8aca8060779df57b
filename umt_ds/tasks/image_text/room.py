"""The door of the CLIP that teaches the demo: what the rest of the house may ask of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from umt_ds.batch import Media
from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.image_text import ImageTextConfig
from umt_ds.engine.memory import ELEMENT
from umt_ds.errors import ConfigError
from umt_ds.evaluation.embedding import Embedder
from umt_ds.evaluation.encode import Encode
from umt_ds.evaluation.evaluator import Evaluator
from umt_ds.evaluation.exhibits import Exhibit, Remark
from umt_ds.evaluation.prediction import Asked, Predictor
from umt_ds.tasks.cost import TaskCost
from umt_ds.tasks.image_text.cost import image_text_cost
from umt_ds.tasks.image_text.task import ImageTextTask, Tokenizer
from umt_ds.tasks.room import ExhibitOptions, Say


def tokenizer(run: RunConfig) -> Tokenizer:
    """CLIP's."""
    return Tokenizer(_settings(run).text.context_length)


def answer_tokenizer(run: RunConfig) -> None:
    """No answer is learned."""


def num_classes(run: RunConfig) -> None:
    """No label is learned."""


def build(
    run: RunConfig, *, device: torch.device, precision: Precision, pieces: int, classes: Sequence[str]
) -> ImageTextTask:
    """See `TaskRoom`."""
    return ImageTextTask(_settings(run), seed=run.seed, device=device)


def cost(run: RunConfig, precision: Precision, shares: Mapping[Media, float]) -> TaskCost:
    """See `TaskRoom`."""
    return image_text_cost(_settings(run), ELEMENT[precision])


def evaluators(run: RunConfig, classes: Sequence[str]) -> Sequence[Evaluator]:
    """It is judged by nothing."""
    return []


def tokens(run: RunConfig, module: nn.Module) -> Encode:
    """See `TaskRoom`."""
    raise ConfigError(
        f"run {run.name} trains a CLIP, which sees single images and has no tokens of clips",
        hint="probe a student: a run of stage 1, stage 2 or recognition",
    )


def embedder(run: RunConfig, module: nn.Module) -> Embedder:
    """See `TaskRoom`."""
    raise ConfigError(
        f"run {run.name} trains a CLIP, which sees single images and makes no vectors of clips",
        hint="a run of stage 1, recognition, stage 2, retrieval or question answering",
    )


def exhibits(folder: Path, run: RunConfig, options: ExhibitOptions, say: Say) -> Iterator[Exhibit]:
    """It is judged where it teaches."""
    yield Remark(
        "What was learned",
        "How good this CLIP is shows where it teaches: in the row `teacher` of the report of a stage-1 run.",
    )


def predictor(run: RunConfig, asked: Asked, classes: Sequence[str]) -> Predictor:
    """See `TaskRoom`."""
    raise ConfigError(
        f"run {run.name} trains a CLIP that sees single images, and says nothing of videos",
        hint="a run of recognition, stage 2, retrieval or question answering",
    )


def _settings(run: RunConfig) -> ImageTextConfig:
    assert isinstance(run.task, ImageTextConfig)
    return run.task
