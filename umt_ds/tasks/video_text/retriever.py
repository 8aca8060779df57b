"""A model that finds texts for videos and videos for texts: nothing is hidden, every frame counts.

Shapes: B videos or texts, T frames, N tokens of a video, D their width, L tokens and W width of a text, R texts that
look at one video, C width of the space where videos and texts are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from umt_ds.batch import Tokens
from umt_ds.config.run import RunConfig
from umt_ds.data.text import CaptionTokenizer
from umt_ds.models.bert import Looked
from umt_ds.models.video_text import VideoTextModel
from umt_ds.tasks.captions import caption_tokenizer, vocabulary_of
from umt_ds.tasks.initial import read_initial, refuse_other_words
from umt_ds.tasks.stage2.model import build_module
from umt_ds.tasks.video_text.settings import has_word_head, objective_of
from umt_ds.tasks.video_text.weights import load_retrieval


class Retriever:
    """Embeds videos and texts for evaluation; similarities are products of unit vectors (METHOD.md, "Retrieval").

    It calls modules that are in the model, and never the model whole: at ZeRO stage 3 each gathers its own weights.
    """

    def __init__(
        self, model: VideoTextModel, *, frames: int, side: int, antialias: bool, tokenizer: CaptionTokenizer
    ) -> None:
        self._model = model
        self.frames, self.side, self.antialias = frames, side, antialias  # what videos must have, and how they get it
        self.tokenizer = tokenizer

    @torch.no_grad()
    def embed_videos(self, pixels: Tensor) -> Tensor:
        """u8 [B,T,H,W,3] to a unit vector of each frame, f32 [B,T,C]."""
        pooled = self._model.vision_encoder.pool(self.encode_videos(pixels), frames=pixels.shape[1])
        return self._model.embed_video(pooled)

    @torch.no_grad()
    def embed_texts(self, tokens: Tokens) -> Tensor:
        """Captions to unit vectors, f32 [B,C]."""
        return self._model.embed_text(self.encode_texts(tokens))

    @torch.no_grad()
    def encode_videos(self, pixels: Tensor) -> Tensor:
        """u8 [B,T,H,W,3] to all tokens [B,N,D]."""
        tokens: Tensor = self._model.vision_encoder.encoder(pixels.to(self._device)).tokens
        return tokens

    @torch.no_grad()
    def encode_texts(self, tokens: Tokens) -> Tensor:
        """Captions to states [B,L,W]."""
        return self._model.text_encoder.encode(tokens.ids.to(self._device), tokens.mask.to(self._device))

    @torch.no_grad()
    def look(self, video: Tensor) -> Sequence[Looked]:
        """Keys and values of a video [1,N,D], for all texts that look at it."""
        return self._model.text_encoder.look(video)

    @torch.no_grad()
    def match(self, states: Tensor, is_token: Tensor, looked: Sequence[Looked]) -> Tensor:
        """Texts [R,L,W], bool [R,L], with one video: the logits of class 1 of the matching head, f32 [R]."""
        return self._model.match(self._model.text_encoder.fuse_with(states, is_token, looked))[:, 1]

    @property
    def model(self) -> VideoTextModel:
        """With all its weights."""
        return self._model

    @property
    def _device(self) -> torch.device:
        return self._model.temp.device


def build_retriever(
    config: RunConfig, weights: Path | None, *, device: torch.device, averaged: bool = False
) -> Retriever:
    """The model of a run's configuration with weights from a run folder or file, or with their moving average; None: as
    the run begins. Raises ConfigError for a run that does not compare videos with texts, WeightsError for weights that
    do not fit it or learned no text."""
    task = objective_of(config)
    tokenizer = caption_tokenizer(task.text)
    model = build_module(
        task,
        None,
        vocabulary_of(tokenizer),
        seed=config.seed,
        pretrained=weights is None,
        word_head=has_word_head(config),
    )
    if weights is not None:
        initial = read_initial(weights, averaged=averaged)
        refuse_other_words(initial.fingerprints, {"vocabulary": tokenizer.fingerprint}, where=initial.where)
        load_retrieval(model, initial)  # training may begin with an encoder of videos alone; this cannot
    student = task.student
    return Retriever(
        model.to(device).eval(),
        frames=student.frames,
        side=student.image_size,
        antialias=config.data.augment.antialias,
        tokenizer=tokenizer,
    )
