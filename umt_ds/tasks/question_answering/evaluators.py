"""What question answering is judged by: from the settings of an evaluation to its evaluator."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any

from umt_ds.config.evaluation import QuestionAnsweringEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.question_answering import QuestionAnsweringConfig
from umt_ds.data.clip_request import AlsoAsked, ClipRequest, middle_frames, published_frames
from umt_ds.data.clips import read_record
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.data.order.views import Views
from umt_ds.data.shards.sample_record import ANSWERS, answers_of
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.storage import as_path
from umt_ds.data.shards.stream import Tars
from umt_ds.distributed.collectives import broadcast_object, is_first_rank
from umt_ds.errors import ConfigError, DecodeError, UmtError, some
from umt_ds.evaluation.answer_list import AnswerList, read_answer_list
from umt_ds.evaluation.answering import AnsweringEvaluator, asked_fields, asked_of
from umt_ds.tasks.captions import answer_tokenizer_of, caption_tokenizer
from umt_ds.tasks.evaluators import evaluation_set, trained_on
from umt_ds.tasks.sources import shards_of

log = logging.getLogger("umt_ds")

_LOOKED_AT = 1000  # questions of a set that are held against the list of answers before anything is trained


def answering_evaluator(name: str, settings: QuestionAnsweringEvaluation, run: RunConfig) -> AnsweringEvaluator:
    """What the module in training answers to the questions of a set.

    Raises ConfigError where there is no vocabulary or no list of answers to these questions, DataError for what is no
    set.
    """
    task = run.task
    assert isinstance(task, QuestionAnsweringConfig)
    tokenizer = caption_tokenizer(task.text)
    items = evaluation_set(name, as_path(settings.shards), _request(settings, run, task), settings, run)
    among = None if settings.answers is None else _list_of(name, settings, items, run)
    about: dict[str, Any] = {
        "vocabulary": tokenizer.fingerprint,
        "question_field": task.question,
        "question_tokens": task.text.max_tokens,
        "answer_tokens": task.answer_tokens,
        **trained_on(name, items, run),
    }
    return AnsweringEvaluator(
        name,
        items,
        tokenizer,
        answer_tokenizer_of(task.text, max_tokens=task.answer_tokens),
        among,
        candidates=settings.candidates,
        beams=None if settings.generate is None else settings.generate.beams,
        num_workers=run.data.workers,
        about=about,
    )


def _request(settings: QuestionAnsweringEvaluation, run: RunConfig, task: QuestionAnsweringConfig) -> ClipRequest:
    """All of each clip, out of its proportions. Source: METHOD.md, "Frames: stage 2", "Crops: stage 2"."""
    frames, side = task.clip_shape
    published = settings.frames == "published"
    tokenizer = caption_tokenizer(task.text)
    return ClipRequest(
        frames=published_frames(Views("retrieval", frames)) if published else middle_frames(frames),
        side=side,
        view="stretched",
        antialias=run.data.augment.antialias if settings.antialias is None else settings.antialias,
        also=AlsoAsked(asked_fields(task.question), partial(asked_of, question=task.question, clean=tokenizer.clean)),
    )


# ------------------------------------------------------------ the list of answers


def _list_of(name: str, settings: QuestionAnsweringEvaluation, items: EvaluationSet, run: RunConfig) -> AnswerList:
    """The list, held against the questions of the set and those that the run trains on. Every rank calls it, the first
    one looks at them. Raises ConfigError where it is none, or has no answer to any of the set's questions."""
    assert settings.answers is not None
    key = f"evaluation.{name}.answers"
    try:
        among = read_answer_list(as_path(settings.answers))
    except ConfigError as error:
        raise ConfigError(f"{key}: {error.what}", hint=error.hint) from error
    if is_first_rank():
        if among.twice:
            log.warning("%s: %s has %s more than once, each time as a candidate of its own",
                        key, among.where, some(among.twice))  # fmt: skip
        _warn_of_training(key, among, run)
    questions = broadcast_object([asked.answers for asked in items.said(_LOOKED_AT)] if is_first_rank() else None)
    if questions and not any(map(among.has_one_of, questions)):
        raise ConfigError(
            f"{key}: none of the first {len(questions)} questions of {items.shards} has an answer among the "
            f"{len(among.answers)} of {among.where}",
            hint="the list belongs to other questions; `umt-data answers TRAINING-TABLE -o FILE` writes one, and "
            "--against FILE counts what it covers",
        )
    return among


def _warn_of_training(key: str, among: AnswerList, run: RunConfig) -> None:
    """What training teaches and no evaluation can find."""
    for name, source in run.data.sources.items():
        try:
            shards = shards_of(source)
            answers = [] if isinstance(shards, Tars) else _training_answers(ShardSource(shards, max_open=1, look=False))
        except UmtError:  # a run may be judged where its training data are not
            continue
        missing = sum(not among.has_one_of(each) for each in answers)
        if missing:
            log.warning("%s: %d of the first %d questions of data.sources.%s have no answer among the %d of %s",
                        key, missing, len(answers), name, len(among.answers), among.where)  # fmt: skip


def _training_answers(source: ShardSource) -> Sequence[tuple[str, ...]]:
    """Of the first questions, of those that have any."""
    found = []
    with closing(source):
        for ref in islice(source.refs(), _LOOKED_AT):
            try:
                answers = answers_of(read_record(source, ref, asked=ANSWERS))
            except DecodeError:
                continue
            if answers:
                found.append(tuple(answer.text for answer in answers))
    return found
