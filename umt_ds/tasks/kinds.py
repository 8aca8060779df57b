"""From `task.kind` to the room of the task: the only place that tells tasks apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from umt_ds.batch import Media
from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.run import RunConfig
from umt_ds.data.collate import Tokenize, TokenizeAnswers
from umt_ds.engine.protocol import Task
from umt_ds.evaluation.embedding import Embedder
from umt_ds.evaluation.encode import Encode
from umt_ds.evaluation.evaluator import Evaluator
from umt_ds.evaluation.exhibits import Exhibit
from umt_ds.evaluation.prediction import Asked, Predictor
from umt_ds.tasks.cost import ONLY_VIDEO, TaskCost
from umt_ds.tasks.room import ExhibitOptions, Say, TaskRoom


def room_of(run: RunConfig) -> TaskRoom:
    """A room is imported when it is asked for: some load transformers or open_clip."""
    match run.task.kind:
        case "stage1":
            from umt_ds.tasks.stage1 import room as stage1

            return stage1
        case "stage2":
            from umt_ds.tasks.stage2 import room as stage2

            return stage2
        case "recognition":
            from umt_ds.tasks.recognition import room as recognition

            return recognition
        case "retrieval":
            from umt_ds.tasks.retrieval import room as retrieval

            return retrieval
        case "question_answering":
            from umt_ds.tasks.question_answering import room as question_answering

            return question_answering
        case "image_text":
            from umt_ds.tasks.image_text import room as image_text

            return image_text


def tokenizer_of(run: RunConfig) -> Tokenize | None:
    """What makes tokens of captions for the loader; None where the task reads no text."""
    return room_of(run).tokenizer(run)


def answer_tokenizer_of(run: RunConfig) -> TokenizeAnswers | None:
    """What makes tokens of answers for the loader; None where the task learns none."""
    return room_of(run).answer_tokenizer(run)


def num_classes_of(run: RunConfig) -> int | None:
    """How many classes its labels may name; None where none are learned, or any label will do."""
    return room_of(run).num_classes(run)


def build_task(
    run: RunConfig, *, device: torch.device, precision: Precision, pieces: int = 1, classes: Sequence[str] = ()
) -> Task:
    """The task that `task.kind` names, with initial weights that are the same on every rank. pieces: of a `RunPlan`.
    classes: names of the rows of the head in the checkpoint that will be loaded."""
    return room_of(run).build(run, device=device, precision=precision, pieces=pieces, classes=classes)


def cost_of(run: RunConfig, precision: Precision, *, shares: Mapping[Media, float] = ONLY_VIDEO) -> TaskCost:
    """shares: of all views, that each medium has; stage 2 alone asks. Memory is of the heavier medium.

    Raises ConfigError where student and teacher do not fit each other.
    """
    return room_of(run).cost(run, precision, shares)


def evaluators_of(run: RunConfig, classes: Sequence[str] = ()) -> Sequence[Evaluator]:
    """What judges the run: one evaluator for each entry of `evaluation`. classes: as above. Raises ConfigError."""
    return room_of(run).evaluators(run, classes)


def tokens_of(run: RunConfig, module: nn.Module) -> Encode:
    """What the frozen encoder of the run makes of clips: see `TaskRoom.tokens`. Raises ConfigError."""
    return room_of(run).tokens(run, module)


def embedder_of(run: RunConfig, module: nn.Module) -> Embedder:
    """How the trained module of the run makes vectors: see `TaskRoom.embedder`. Raises ConfigError."""
    return room_of(run).embedder(run, module)


def exhibits_of(folder: Path, run: RunConfig, options: ExhibitOptions, say: Say) -> Iterator[Exhibit]:
    """What a report shows of the trained run in `folder`, beside what every run has."""
    return room_of(run).exhibits(folder, run, options, say)


def predictor_of(run: RunConfig, asked: Asked, classes: Sequence[str] = ()) -> Predictor:
    """What says of videos what is asked. classes: as above. Raises ConfigError where the run cannot say it."""
    return room_of(run).predictor(run, asked, classes)
