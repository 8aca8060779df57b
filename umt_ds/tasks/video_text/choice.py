"""Multiple choice by the model of video and text: how it compares the options of an item with its video.

Shapes: B videos, T frames, N tokens of a video, D width of the video, C width of the common space, R pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from umt_ds.batch import Tokens
from umt_ds.config.evaluation import MultipleChoiceEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.data.clip_request import AlsoAsked
from umt_ds.data.shards.sample_record import Choice, choice_of
from umt_ds.data.shards.storage import as_path
from umt_ds.evaluation.multiple_choice import MultipleChoiceEvaluator
from umt_ds.models.video_text import VideoTextModel, mean_over_frames
from umt_ds.tasks.captions import caption_tokenizer
from umt_ds.tasks.evaluators import evaluation_set, trained_on
from umt_ds.tasks.video_text.retrieval import request_of
from umt_ds.tasks.video_text.settings import objective_of


class SeenVideos(NamedTuple):
    """tokens: [B,N,D]. vectors: the means of the unit vectors of the frames, f32 [B,C]."""

    tokens: Tensor
    vectors: Tensor


class Comparing:
    """Scores pairs of text and video by similarity and by matching. Nothing is hidden, every frame has its vector.

    It calls modules that are in the model, and never the model whole: at ZeRO stage 3 each gathers its own weights.
    The temperature, which lies in none of them, is gathered by the engine (`Engine.evaluating`).
    """

    def __init__(self, model: VideoTextModel) -> None:
        self._model, self._device = model, model.temp.device
        with torch.no_grad():
            self.temperature = float(model.temperature())

    @torch.no_grad()
    def look(self, pixels: Tensor) -> SeenVideos:
        """See `Compares`."""
        vision = self._model.vision_encoder
        tokens = vision.encoder(pixels.to(self._device)).tokens
        pooled = vision.pool(tokens, frames=pixels.shape[1])
        return SeenVideos(tokens, mean_over_frames(self._model.embed_video(pooled)))

    @torch.no_grad()
    def compare(self, seen: SeenVideos, texts: Tokens, rows: Tensor) -> tuple[Tensor, Tensor]:
        """See `Compares`."""
        model, text = self._model, self._model.text_encoder
        ids, is_token, rows = (each.to(self._device) for each in (texts.ids, texts.mask, rows))
        encoded = text.encode(ids, is_token)
        similarity = (model.embed_text(encoded) * seen.vectors[rows]).sum(dim=1)  # [R]
        near, of_near = torch.unique(rows, return_inverse=True)  # keys and values of these videos only
        return similarity, model.match(text.fuse(encoded, is_token, seen.tokens[near], of_near))


def multiple_choice_evaluator(name: str, settings: MultipleChoiceEvaluation, run: RunConfig) -> MultipleChoiceEvaluator:
    """Which option of each item the module in training chooses.

    Raises ConfigError where there is no vocabulary, DataError for what is no set.
    """
    text = objective_of(run).text
    tokenizer = caption_tokenizer(text)

    def read(record: Mapping[str, Any]) -> Choice:
        return choice_of(record, options=settings.options, answer=settings.answer, clean=tokenizer.clean)

    asked = AlsoAsked((settings.options, settings.answer), read)
    request = replace(request_of(settings, run, tokenizer, caption=None), also=asked)
    items = evaluation_set(name, as_path(settings.shards), request, settings, run)
    about = {
        "fields": {"options": settings.options, "answer": settings.answer},
        "vocabulary": tokenizer.fingerprint,
        "max_tokens": text.max_tokens,
        **trained_on(name, items, run),
    }
    return MultipleChoiceEvaluator(name, items, comparing, tokenizer, num_workers=run.data.workers, about=about)


def comparing(module: nn.Module) -> Comparing:
    """How the module that trains compares."""
    assert isinstance(module, VideoTextModel)
    return Comparing(module)
