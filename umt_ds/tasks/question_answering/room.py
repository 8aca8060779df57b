"""The door of question answering: what the rest of the house may ask of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from umt_ds.batch import Media
from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.evaluation import EvaluationConfig, QuestionAnsweringEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.question_answering import QuestionAnsweringConfig
from umt_ds.data.collate import Tokenize, TokenizeAnswers
from umt_ds.engine.memory import ELEMENT
from umt_ds.evaluation.embedding import Embedder
from umt_ds.evaluation.encode import Encode
from umt_ds.evaluation.evaluator import Evaluator
from umt_ds.evaluation.exhibits import Exhibit
from umt_ds.evaluation.frozen_features import pooled_student
from umt_ds.evaluation.prediction import Asked, Predictor
from umt_ds.evaluation.probes.features import all_tokens
from umt_ds.tasks.captions import answer_tokenizer_of, caption_tokenizer, vocabulary_of
from umt_ds.tasks.cost import TaskCost
from umt_ds.tasks.probing import feature_embedder
from umt_ds.tasks.question_answering.cost import answering_cost
from umt_ds.tasks.question_answering.evaluators import answering_evaluator
from umt_ds.tasks.question_answering.exhibits import answered_questions
from umt_ds.tasks.question_answering.module import AnsweringModule
from umt_ds.tasks.question_answering.prediction import answer_predictor
from umt_ds.tasks.question_answering.task import QuestionAnsweringTask
from umt_ds.tasks.room import ExhibitOptions, Say


def tokenizer(run: RunConfig) -> Tokenize:
    """That of its BERT, for questions, which are cleaned as captions are."""
    return caption_tokenizer(_settings(run).text)


def answer_tokenizer(run: RunConfig) -> TokenizeAnswers:
    """That of its BERT, with [SEP] behind an answer."""
    return answer_tokenizer_of(_settings(run).text, max_tokens=_settings(run).answer_tokens)


def num_classes(run: RunConfig) -> None:
    """No label is learned."""


def build(
    run: RunConfig, *, device: torch.device, precision: Precision, pieces: int, classes: Sequence[str]
) -> QuestionAnsweringTask:
    """See `TaskRoom`."""
    task = _settings(run)
    vocabulary = vocabulary_of(caption_tokenizer(task.text))
    return QuestionAnsweringTask(task, seed=run.seed, device=device, vocabulary=vocabulary)


def cost(run: RunConfig, precision: Precision, shares: Mapping[Media, float]) -> TaskCost:
    """See `TaskRoom`."""
    return answering_cost(run, _settings(run), ELEMENT[precision])


def evaluators(run: RunConfig, classes: Sequence[str]) -> Sequence[Evaluator]:
    """See `TaskRoom`."""
    return [_evaluator(name, settings, run) for name, settings in run.evaluation.items()]


def _evaluator(name: str, settings: EvaluationConfig, run: RunConfig) -> Evaluator:
    assert isinstance(settings, QuestionAnsweringEvaluation)
    return answering_evaluator(name, settings, run)


def tokens(run: RunConfig, module: nn.Module) -> Encode:
    """See `TaskRoom`."""
    assert isinstance(module, AnsweringModule)
    return all_tokens(module.encoder)


def embedder(run: RunConfig, module: nn.Module) -> Embedder:
    """Of clips alone: its questions and answers are no vectors."""
    assert isinstance(module, AnsweringModule)
    return feature_embedder(run, module.encoder, pooled_student(module.encoder))


def exhibits(folder: Path, run: RunConfig, options: ExhibitOptions, say: Say) -> Iterator[Exhibit]:
    """Some held-out questions, and what is answered."""
    yield from answered_questions(folder, run, options, say)


def predictor(run: RunConfig, asked: Asked, classes: Sequence[str]) -> Predictor:
    """The answers to questions."""
    return answer_predictor(run, asked)


def _settings(run: RunConfig) -> QuestionAnsweringConfig:
    assert isinstance(run.task, QuestionAnsweringConfig)
    return run.task
