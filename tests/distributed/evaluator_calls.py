"""Evaluators as ranks run them (see tests.support.ranks): tiny models of fixed weights over tiny sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.distributed.calls import Toy, _engine, _step
from tests.support.stage2 import WORDS, tiny_module
from umt_ds.batch import Tokens
from umt_ds.data.clip_request import AlsoAsked, ClipRequest, middle_frames, stored_frames
from umt_ds.data.evaluation import EvalBatch, EvaluationSet
from umt_ds.data.order.views import Views
from umt_ds.data.shards.sample_record import Choice, choice_of
from umt_ds.distributed.job import start_job
from umt_ds.distributed.world import World, find_world
from umt_ds.errors import DataError, UmtError
from umt_ds.evaluation.classification import ClassificationEvaluator
from umt_ds.evaluation.encode import Encode
from umt_ds.evaluation.evaluator import Evaluator
from umt_ds.evaluation.frozen_features import pooled_student
from umt_ds.evaluation.knn import KnnEvaluator
from umt_ds.evaluation.multiple_choice import MultipleChoiceEvaluator
from umt_ds.evaluation.retrieval import RetrievalEvaluator
from umt_ds.tasks.stage2.module import Stage2Module
from umt_ds.tasks.video_text.choice import comparing
from umt_ds.tasks.video_text.retriever import Retriever

FRAMES, SIDE = 2, 16
CLASSES = 7


class Letters:
    """A token a letter, after the first."""

    clean = staticmethod(str.strip)

    def __call__(self, captions: list[str]) -> Tokens:
        rows = [[WORDS.cls_id, *(5 + ord(letter) % 35 for letter in caption[-7:])] for caption in captions]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [WORDS.pad_id] * (longest - len(row)) for row in rows])
        return Tokens(ids, ids != WORDS.pad_id)


def scores(world: World | None = None, *, kind: str, fails_on: int | None = None, **options: Any) -> dict[str, Any]:
    """What an evaluator finds with the tiny model of stage 2. fails_on: the rank whose disk fails in its last batch."""
    world = world or find_world()
    beats: list[None] = []
    evaluator = evaluators(**options)[kind]
    if world.rank == fails_on:
        _fail(evaluator.held_out if isinstance(evaluator, KnnEvaluator) else evaluator.items)  # type: ignore[attr-defined]
    return _found(evaluator, tiny_module().eval(), world, lambda: beats.append(None)) | {"beats": len(beats) > 0}


def _found(evaluator: Evaluator, module: nn.Module, world: World, beat: Callable[[], None]) -> dict[str, Any]:
    try:
        found = evaluator.run(module, world, beat=beat, predictions=True)
    except UmtError as error:
        return {"error": error.what, "agreed": error.agreed}
    assert tuple(found.values) == evaluator.metrics
    left_out = [[one.key, one.reason] for one in found.left_out]
    return {
        "values": dict(found.values), "items": found.items, "left_out": left_out, "partial": found.is_partial,
        "ranks": dict(found.ranks), "predictions": found.predictions, "protocol": dict(found.protocol),
    }  # fmt: skip


def evaluators(
    *,
    shards: str,
    voters: str | None = None,
    workers: int = 0,
    batch: int = 2,
    limit: int | None = None,
    max_left_out: float = 0.01,
    encoder_of: Callable[[nn.Module], Encode] | None = None,
) -> dict[str, Evaluator]:
    """Of each kind one."""

    def clips(folder: str, request: ClipRequest) -> EvaluationSet:
        return EvaluationSet(Path(folder), request, batch_size=batch, limit=limit, max_left_out=max_left_out)

    frames = middle_frames(FRAMES)
    labelled = ClipRequest(frames, SIDE, label_fields=["label"], needs_labels=True)
    captioned = ClipRequest(frames, SIDE, view="stretched", antialias=False, caption_field="caption")
    asked = replace(captioned, caption_field=None, also=AlsoAsked(("options", "answer"), _choice))
    segments = stored_frames(Views("recognition", FRAMES, 2))
    tested = replace(labelled, frames=segments, view="testing", antialias=False, crops=3, num_classes=CLASSES)
    return {
        "knn": KnnEvaluator(
            "knn",
            clips(shards, labelled),
            clips(voters or shards, labelled),
            encoder_of or _features,
            neighbours=3,
            num_workers=workers,
        ),
        "retrieval": RetrievalEvaluator(
            "retrieval", clips(shards, captioned), _retriever, Letters(), num_workers=workers
        ),
        "multiple_choice": MultipleChoiceEvaluator(
            "multiple_choice", clips(shards, asked), comparing, Letters(), num_workers=workers
        ),
        "classification": ClassificationEvaluator(
            "classification", clips(shards, tested), _logits, classes=CLASSES, num_workers=workers
        ),
    }


def _choice(record: Mapping[str, Any]) -> Choice:
    return choice_of(record, options="options", answer="answer")


def _features(module: nn.Module) -> Encode:
    assert isinstance(module, Stage2Module)
    return pooled_student(module.vision_encoder.encoder)


def _logits(module: nn.Module) -> Encode:
    """The first features of a clip, as if they were what it is."""
    features = _features(module)
    return lambda pixels: features(pixels)[:, :CLASSES]


def _retriever(module: nn.Module) -> Retriever:
    assert isinstance(module, Stage2Module)
    return Retriever(module, frames=FRAMES, side=SIDE, antialias=False, tokenizer=Letters())  # type: ignore[arg-type]


def _fail(items: EvaluationSet) -> None:
    read = items.batch

    def batch(number: int) -> EvalBatch:
        if number >= 3:
            raise DataError("the disk of this rank is gone")
        return read(number)

    items.batch = batch  # type: ignore[method-assign]


def zero_scores(settings: dict[str, Any], shards: str, voters: str) -> dict[str, Any]:
    """What evaluators of both kinds find with the same model under DeepSpeed."""
    with start_job() as job:
        engine = _engine(settings, job.world.size, tiny_module())
        some = evaluators(shards=shards, voters=voters)
        with engine.evaluating() as module:
            result = {kind: _found(one, module, job.world, lambda: None) for kind, one in some.items()}
        engine.close()
    return result


def evaluated_curve(settings: dict[str, Any], steps: int, shards: str) -> dict[str, Any]:
    """(loss, gradient norm) of each step of a toy run that is evaluated before each of them."""

    def encoder_of(module: nn.Module) -> Encode:
        assert isinstance(module, Toy)
        first = module.first
        return lambda pixels: first(pixels.flatten(1)[:, : first.in_features].to(first.weight.dtype) / 255)

    with start_job() as job:
        engine = _engine(settings, job.world.size, Toy())
        evaluator = evaluators(shards=shards, encoder_of=encoder_of)["knn"]
        curve, found = [], []
        for step in range(steps):
            engine.module.eval()
            found.append(_found(evaluator, engine.module, job.world, lambda: None)["values"])
            engine.module.train()
            curve.append(_step(engine, step, job.world.rank, job.world.size))
        engine.close()
    return {"curve": curve, "found": found}
