"""Clips and texts as vectors of one space: what an index holds, and what asks it.

Shapes: B clips, T frames, R texts, C width of the space where videos and texts are compared.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from umt_ds.batch import Tokens
from umt_ds.config.run import RunConfig
from umt_ds.data.clip_request import middle_frames
from umt_ds.errors import ConfigError, DecodeError, quoted
from umt_ds.evaluation.embedding import Embedder, TextEmbedder
from umt_ds.models.video_text import VideoTextModel, mean_over_frames
from umt_ds.tasks.captions import caption_tokenizer
from umt_ds.tasks.video_text.retrieval import full_view
from umt_ds.tasks.video_text.retriever import Retriever
from umt_ds.tasks.video_text.settings import objective_of

_TEXTS = 64  # that are encoded together


def video_text_embedder(run: RunConfig, module: nn.Module) -> Embedder:
    """That of a trained module. Raises ConfigError where there is no vocabulary."""
    assert isinstance(module, VideoTextModel)
    task = objective_of(run)
    frames, side = task.clip_shape
    antialias = run.data.augment.antialias
    tokenizer = caption_tokenizer(task.text)
    return embedder_of(Retriever(module, frames=frames, side=side, antialias=antialias, tokenizer=tokenizer), run)


def embedder_of(retriever: Retriever, run: RunConfig) -> Embedder:
    """Of a clip it sees all of each frame, the middle of each of so many parts of the clip, and makes the mean of the
    unit vectors of its frames, whose product with a text is the mean of theirs.

    Source: METHOD.md, "Retrieval", "Crops: stage 2".
    """

    def clips(pixels: Tensor) -> Tensor:
        return mean_over_frames(retriever.embed_videos(pixels)).float().cpu()

    request = full_view(
        retriever.tokenizer,
        frames=middle_frames(retriever.frames),
        side=retriever.side,
        antialias=retriever.antialias,
        caption="caption",
    )
    texts = _Texts(retriever)
    return Embedder(
        request=request,
        clips=clips,
        features="the mean of the unit vectors of its frames, in the space of texts",
        encoder=retriever.model.vision_encoder.encoder,
        text=TextEmbedder(texts.embed, texts.clean, can_match=objective_of(run).loss_weights.vtm > 0),
    )


class _Texts:
    """As `TextEmbedder` says it."""

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever

    def embed(self, texts: list[str]) -> Tensor:
        tokenizer = self._retriever.tokenizer
        tokens = [tokenizer(texts[start : start + _TEXTS]) for start in range(0, len(texts), _TEXTS)]
        return torch.cat([self._embedded(some) for some in tokens])

    def _embedded(self, tokens: Tokens) -> Tensor:
        return self._retriever.embed_texts(tokens).float().cpu()

    def clean(self, text: str) -> str:
        try:
            cleaned = self._retriever.tokenizer.clean(text)
        except DecodeError as error:
            raise ConfigError(f"the text {quoted(text)}: {error.what}") from error
        if not cleaned:
            raise ConfigError(
                f"nothing is left of the text {quoted(text)} without its punctuation", hint="search for words"
            )
        return cleaned
