"""The door of question answering: what the rest of the house may ask of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from umt_ds.batch import Media
from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.question_answering import QuestionAnsweringConfig
from umt_ds.data.collate import Tokenize, TokenizeAnswers
from umt_ds.engine.protocol import Task
from umt_ds.evaluation.encode import Encode
from umt_ds.evaluation.evaluator import Evaluator
from umt_ds.evaluation.exhibits import Exhibit
from umt_ds.tasks.captions import caption_tokenizer
from umt_ds.tasks.cost import TaskCost
from umt_ds.tasks.room import ExhibitOptions, Say


def tokenizer(run: RunConfig) -> Tokenize:
    """That of its BERT, for questions, which are cleaned as captions are."""
    return caption_tokenizer(_settings(run).text)


def answer_tokenizer(run: RunConfig) -> TokenizeAnswers:
    """That of its BERT, with [SEP] behind an answer."""
    raise NotImplementedError


def num_classes(run: RunConfig) -> None:
    """No label is learned."""


def build(run: RunConfig, *, device: torch.device, precision: Precision, pieces: int, classes: Sequence[str]) -> Task:
    """See `TaskRoom`."""
    raise NotImplementedError


def cost(run: RunConfig, precision: Precision, shares: Mapping[Media, float]) -> TaskCost:
    """See `TaskRoom`."""
    raise NotImplementedError


def evaluators(run: RunConfig, classes: Sequence[str]) -> Sequence[Evaluator]:
    """See `TaskRoom`."""
    raise NotImplementedError


def tokens(run: RunConfig, module: nn.Module) -> Encode:
    """See `TaskRoom`."""
    raise NotImplementedError


def exhibits(folder: Path, run: RunConfig, options: ExhibitOptions, say: Say) -> Iterator[Exhibit]:
    """What is answered to held-out questions."""
    raise NotImplementedError


def _settings(run: RunConfig) -> QuestionAnsweringConfig:
    assert isinstance(run.task, QuestionAnsweringConfig)
    return run.task
