"""What a report shows of question answering: some held-out questions, and what is answered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from umt_ds.config.evaluation import QuestionAnsweringEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.question_answering import QuestionAnsweringConfig
from umt_ds.engine.checkpoint_files import read_checkpoint_weights
from umt_ds.engine.manifest import resolve_checkpoint
from umt_ds.evaluation.answering import RANKED
from umt_ds.evaluation.exhibits import AnsweredClip, Exhibit, Remark, or_why_not
from umt_ds.evaluation.prediction import Choice
from umt_ds.tasks.answered import Row, answered_clips
from umt_ds.tasks.captions import caption_tokenizer, vocabulary_of
from umt_ds.tasks.question_answering.evaluators import answering_evaluator
from umt_ds.tasks.question_answering.model import build_module
from umt_ds.tasks.question_answering.module import AnsweringModule
from umt_ds.tasks.room import ExhibitOptions, Say
from umt_ds.weights.load import load_strict


def answered_questions(folder: Path, run: RunConfig, options: ExhibitOptions, say: Say) -> Iterator[Exhibit]:
    """Of each evaluation of the run; a sentence where it has none."""
    judged = {name: one for name, one in run.evaluation.items() if isinstance(one, QuestionAnsweringEvaluation)}
    if not judged:
        yield Remark("What is answered", "The run names no questions that it is judged on (evaluation).")
    for name, settings in judged.items():
        say(f"answering held-out questions: {name}")
        yield or_why_not(f"What is answered: {name}", lambda: _answered(folder, run, name, settings, options))  # noqa: B023


def _answered(
    folder: Path, run: RunConfig, name: str, settings: QuestionAnsweringEvaluation, options: ExhibitOptions
) -> Exhibit:
    limit = min(settings.limit or options.max_clips, options.max_clips)
    changes = {"limit": limit, **({} if options.val is None else {"shards": str(options.val)})}
    evaluator = answering_evaluator(name, settings.model_copy(update=changes), run)
    checkpoint = resolve_checkpoint(folder)
    return answered_clips(
        f"What is answered: {name}",
        evaluator,
        _trained(checkpoint, run, averaged=settings.ema),
        _told,
        is_right="right" if RANKED in evaluator.metrics else "written_right",
        checkpoint=checkpoint,
    )


def _trained(checkpoint: Path, run: RunConfig, *, averaged: bool) -> AnsweringModule:
    """averaged: the moving average of its weights."""
    assert isinstance(run.task, QuestionAnsweringConfig)
    vocabulary = vocabulary_of(caption_tokenizer(run.task.text))
    module = build_module(run.task, vocabulary, seed=run.seed, pretrained=False)
    load_strict(module, read_checkpoint_weights(checkpoint, averaged=averaged), where=str(checkpoint))
    return module.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _told(row: Row, frames: Tensor) -> AnsweredClip:
    """Answers of the list; where there is none, the one that was written."""
    if "predicted" in row:
        pairs = zip(row["predicted"], row["probability"], strict=True)
        choices = tuple(Choice(answer, {"probability": share}) for answer, share in pairs)
        is_right = row["right"]
    else:
        choices, is_right = (Choice(row["written"], {}),), row["written_right"]
    return AnsweredClip(row["key"], row["question"], choices, tuple(row["answers"]), is_right, frames)
