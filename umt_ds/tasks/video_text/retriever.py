"""A model that finds texts for videos and videos for texts: nothing is hidden, every frame counts.

Shapes: B videos or texts, T frames, C width of the space where they are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from umt_ds.batch import Tokens
from umt_ds.config.run import RunConfig
from umt_ds.data.text import CaptionTokenizer
from umt_ds.errors import WeightsError
from umt_ds.models.video_text import VideoTextModel
from umt_ds.tasks.captions import caption_tokenizer, vocabulary_of
from umt_ds.tasks.initial import read_weights
from umt_ds.tasks.stage2.model import build_module, load_initial
from umt_ds.tasks.video_text.settings import has_word_head, objective_of
from umt_ds.weights.published import is_video_text


class Retriever:
    """Embeds videos and texts for evaluation; similarities are products of unit vectors (METHOD.md, "Retrieval").

    It calls modules that are in the model, and never the model whole: at ZeRO stage 3 each gathers its own weights.
    """

    def __init__(
        self, model: VideoTextModel, *, frames: int, side: int, antialias: bool, tokenizer: CaptionTokenizer
    ) -> None:
        self.model = model
        self.frames, self.side, self.antialias = frames, side, antialias  # what videos must have, and how they get it
        self.tokenizer = tokenizer

    @torch.no_grad()
    def embed_videos(self, pixels: Tensor) -> Tensor:
        """u8 [B,T,H,W,3] to a unit vector of each frame, f32 [B,T,C]."""
        vision = self.model.vision_encoder
        tokens = vision.encoder(pixels.to(self._device)).tokens
        return self.model.embed_video(vision.pool(tokens, frames=pixels.shape[1]))

    @torch.no_grad()
    def embed_texts(self, tokens: Tokens) -> Tensor:
        """Captions to unit vectors, f32 [B,C]."""
        encoded = self.model.text_encoder.encode(tokens.ids.to(self._device), tokens.mask.to(self._device))
        return self.model.embed_text(encoded)

    @property
    def _device(self) -> torch.device:
        return self.model.temp.device


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
        state = read_weights(weights, averaged=averaged)
        _require_text(state, weights)
        load_initial(model, state, where=str(weights))
    student = task.student
    return Retriever(
        model.to(device).eval(),
        frames=student.frames,
        side=student.image_size,
        antialias=config.data.augment.antialias,
        tokenizer=tokenizer,
    )


def _require_text(state: Mapping[str, Tensor], weights: Path) -> None:
    """Training may begin with a video encoder alone; what it says of texts would be chance."""
    if not is_video_text(state):
        raise WeightsError(
            f"{weights} has no text encoder: it is of stage 1, or another model of videos alone",
            hint="name weights of stage 2 or of retrieval",
        )
