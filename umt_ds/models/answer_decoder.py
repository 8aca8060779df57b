"""Question answering: the upper half of BERT writes the answer, and looks at the question that the lower half read.

Source: METHOD.md, "Question answering". State-dict keys are those of the published question-answering checkpoints, but
for the text encoder's, which is called `text_encoder.bert.…` here as in stage 2.

Shapes: Q questions (each with its video), M tokens of a question, R answers, L tokens of an answer, W width of the
text, V words.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from umt_ds.errors import ConfigError
from umt_ds.models.bert import Bert, Seen, WordHead, bert_parts, initialise, run_layer
from umt_ds.models.presets import BertSize
from umt_ds.models.vit import Clips, VideoViT


class AnswerDecoder(nn.Module):
    """Writes an answer token by token: layers that are causal and cross-attend to the states of a question.

    size: of the text encoder; `layers` of its layers make the decoder (published: as many as fuse, 3 of 12 and 5 of
    24). The word head shares the matrix of its own word embeddings. dropout: of states and of attention weights.
    checkpoint_layers: recompute the activations of the first n layers in the backward pass.
    `weights.published.answering_start` gives it the weights of a text encoder's fusion layers.
    """

    def __init__(self, size: BertSize, *, layers: int, dropout: float = 0.1, checkpoint_layers: int = 0) -> None:
        super().__init__()
        self.size = replace(size, layers=layers)
        self.dropout = dropout
        self.checkpoint_layers = checkpoint_layers
        # a door of Any: module dicts are typed by half
        self.bert: Any = bert_parts(self.size, fusion_layers=layers, video_width=size.width, dropout=dropout)
        self.cls: Any = nn.ModuleDict({"predictions": WordHead(size)})
        self.apply(initialise)

    @property
    def borrowed(self) -> tuple[tuple[nn.Module, nn.Parameter], ...]:
        """The word head uses the table of the embeddings: ZeRO stage 3 gathers it for both."""
        return ((self.cls["predictions"], self.bert["embeddings"].word_embeddings.weight),)

    def forward(self, ids: Tensor, questions: Tensor, is_question: Tensor, rows: Tensor | None = None) -> Tensor:
        """Answers i64 [R,L] to logits [R,L,V]: at place l those of token l+1, which depend on tokens 0 to l.

        questions: states [Q,M,W]; is_question: bool [Q,M], False where they are padding. rows: i64 [R], answer r is to
        question rows[r]; None: R = Q. Padding behind an answer needs no mask: no token sees what comes after it.
        """
        seen = Seen(questions, rows, is_question)
        x: Tensor = self.bert["embeddings"](ids)
        for index in range(self.size.layers):
            if index < self.checkpoint_layers and torch.is_grad_enabled():
                x = checkpoint(self._layer, index, x, seen, use_reentrant=False)
            else:
                x = self._layer(index, x, seen)
        logits: Tensor = self.cls["predictions"](x, self.bert["embeddings"].word_embeddings.weight)
        return logits

    def _layer(self, index: int, x: Tensor, seen: Seen) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        layer = self.bert["encoder"]["layer"][index]
        return run_layer(layer, x, heads=self.size.heads, dropout=dropout, causal=True, seen=seen)


class AnsweringModel(nn.Module):
    """Video encoder (without a pooling norm), text encoder (without a word head) and answer decoder.

    Raises ConfigError where the decoder does not read states of the text encoder's width.
    """

    def __init__(self, vision: VideoViT, text: Bert, decoder: AnswerDecoder) -> None:
        super().__init__()
        if decoder.size.width != text.size.width:
            raise ConfigError(
                f"the answer decoder reads states of {decoder.size.width} numbers, "
                f"the text encoder gives {text.size.width}",
                hint="one size of BERT for both",
            )
        self.vision_encoder = nn.ModuleDict({"encoder": vision})
        self.text_encoder = text
        self.text_decoder = decoder

    @property
    def encoder(self) -> VideoViT:
        """The video encoder."""
        encoder: VideoViT = self.vision_encoder["encoder"]  # type: ignore[assignment]
        return encoder

    def read(self, clips: Clips, ids: Tensor, is_token: Tensor, rows: Tensor | None = None) -> Tensor:
        """Clips of videos, questions i64 [Q,M] and bool [Q,M] (False: padding) to states [Q,M,W].

        rows: i64 [Q], question q is about video rows[q]; None: each about its own.
        """
        pixels, keep, drop_noise = clips
        video = self.encoder(pixels, keep=keep, drop_noise=drop_noise).tokens
        return self.text_encoder.fuse(self.text_encoder.encode(ids, is_token), is_token, video, rows)
