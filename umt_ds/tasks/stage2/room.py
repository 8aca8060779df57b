"""The door of stage 2: what the rest of the house may ask of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from umt_ds.batch import Media
from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.stage2 import Stage2Config
from umt_ds.data.collate import Tokenize
from umt_ds.engine.memory import ELEMENT
from umt_ds.evaluation.embedding import Embedder
from umt_ds.evaluation.encode import Encode
from umt_ds.evaluation.evaluator import Evaluator
from umt_ds.evaluation.exhibits import Exhibit
from umt_ds.evaluation.prediction import Asked, Predictor
from umt_ds.evaluation.probes.features import all_tokens
from umt_ds.tasks.captions import caption_tokenizer, vocabulary_of
from umt_ds.tasks.cost import TaskCost
from umt_ds.tasks.room import ExhibitOptions, Say
from umt_ds.tasks.sources import media_shares
from umt_ds.tasks.stage2.cost import stage2_cost
from umt_ds.tasks.stage2.module import Stage2Module
from umt_ds.tasks.stage2.task import Stage2Task
from umt_ds.tasks.video_text.embedding import video_text_embedder
from umt_ds.tasks.video_text.evaluators import video_text_evaluators
from umt_ds.tasks.video_text.exhibits import video_text_exhibits
from umt_ds.tasks.video_text.prediction import caption_predictor


def tokenizer(run: RunConfig) -> Tokenize:
    """That of its BERT, and CLIP's beside it where projections are drawn towards CLIP's text."""
    task = _settings(run)
    bert = caption_tokenizer(task.text)
    if task.align_projections != "visual_text":
        return bert
    from umt_ds.tasks.image_text.task import ClipToo  # loads open_clip

    return ClipToo(bert)


def answer_tokenizer(run: RunConfig) -> None:
    """No answer is learned."""


def num_classes(run: RunConfig) -> None:
    """No label is learned."""


def build(
    run: RunConfig, *, device: torch.device, precision: Precision, pieces: int, classes: Sequence[str]
) -> Stage2Task:
    """See `TaskRoom`."""
    task = _settings(run)
    return Stage2Task(
        task,
        seed=run.seed,
        device=device,
        precision=precision,
        vocabulary=vocabulary_of(caption_tokenizer(task.text)),
        pieces=pieces,
        shares=partial(media_shares, run),
    )


def cost(run: RunConfig, precision: Precision, shares: Mapping[Media, float]) -> TaskCost:
    """See `TaskRoom`."""
    return stage2_cost(_settings(run), ELEMENT[precision], shares)


def evaluators(run: RunConfig, classes: Sequence[str]) -> Sequence[Evaluator]:
    """See `TaskRoom`."""
    return video_text_evaluators(run)


def tokens(run: RunConfig, module: nn.Module) -> Encode:
    """See `TaskRoom`."""
    assert isinstance(module, Stage2Module)
    return all_tokens(module.vision_encoder.encoder)


def embedder(run: RunConfig, module: nn.Module) -> Embedder:
    """Clips and texts in one space."""
    return video_text_embedder(run, module)


def exhibits(folder: Path, run: RunConfig, options: ExhibitOptions, say: Say) -> Iterator[Exhibit]:
    """What held-out captions find, and which captions are chosen."""
    yield from video_text_exhibits(folder, run, options, say)


def predictor(run: RunConfig, asked: Asked, classes: Sequence[str]) -> Predictor:
    """Which of some captions fits."""
    return caption_predictor(run, asked)


def _settings(run: RunConfig) -> Stage2Config:
    assert isinstance(run.task, Stage2Config)
    return run.task
