"""Video and text in one model: the student with a pooling norm, BERT, and their projections to one space.

Source: METHOD.md, "Stage 2: model", "Stage 2: video encoder".

State-dict keys are those of the published stage-2 checkpoints, but for the teacher, which is never inside.

Shapes: B videos (or images), P pooled vectors of each (1, or its frames), V visible tokens, D width of the video,
R texts, L tokens, W width of the text, C width of the space where they are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umt_ds.models.alignment import AlignmentModel, FeatureNorm
from umt_ds.models.bert import Bert
from umt_ds.models.full_value import full_value, keep_full
from umt_ds.models.layers import NORM_EPS
from umt_ds.models.vit import VideoViT

_DECODER_EPS = 1e-5  # torch's default, as published; stage 1 has 1e-6 (METHOD.md, "Stage 2: video encoder")


class VideoEncoder(AlignmentModel):
    """The student of stage 1 with a norm for the mean of its tokens."""

    def __init__(self, encoder: VideoViT, *, out_width: int, layers: int, interval: float, norm: FeatureNorm) -> None:
        super().__init__(
            encoder, out_width=out_width, layers=layers, interval=interval, norm=norm, decoder_eps=_DECODER_EPS
        )
        self.pool_norm = nn.LayerNorm(encoder.size.width, eps=NORM_EPS)

    def pool(self, tokens: Tensor, *, frames: int) -> Tensor:
        """The mean of the tokens [B,V,D] of each of `frames` equal parts, normed: [B,frames,D]; 1: of all."""
        pooled: Tensor = self.pool_norm(torch.unflatten(tokens, 1, (frames, -1)).mean(dim=2))
        return pooled


class _Within(torch.autograd.Function):
    """Clamped to bounds; no gradient that would push a value at a bound further out, but one that brings it back."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.bounds = low, high
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (value,), (low, high), gradient = ctx.saved_tensors, ctx.bounds, gradients[0]
        outwards = ((value <= low) & (gradient > 0)) | ((value >= high) & (gradient < 0))  # a step goes against it
        return gradient.masked_fill(outwards, 0), None, None


class VideoTextModel(nn.Module):
    """Encoders of both, their projections, the temperature, and the head that tells whether they match.

    temperature: [1] at its start, and the bounds that it is kept in.
    """

    def __init__(
        self,
        vision: VideoEncoder,
        text: Bert,
        *,
        embed_width: int,
        temperature: float = 0.07,
        bounds: tuple[float, float] = (0.001, 0.5),
    ) -> None:
        super().__init__()
        self.bounds = bounds
        self.temp = nn.Parameter(torch.full((1,), temperature))
        keep_full(self.temp)
        self.vision_encoder = vision
        self.text_encoder = text
        self.vision_proj = nn.Linear(vision.encoder.size.width, embed_width)
        self.text_proj = nn.Linear(text.size.width, embed_width)
        self.itm_head = nn.Linear(text.size.width, 2)

    def temperature(self) -> Tensor:
        """What similarities are divided by: f32 [1] in every precision, within the bounds."""
        temperature: Tensor = _Within.apply(full_value(self.temp), *self.bounds)
        return temperature

    def embed_video(self, pooled: Tensor) -> Tensor:
        """Pooled vectors [B,P,D] to unit vectors f32 [B,P,C]."""
        return F.normalize(self.vision_proj(pooled).float(), dim=-1)

    def embed_text(self, encoded: Tensor) -> Tensor:
        """Encoded text [R,L,W] to the unit vectors of its first tokens, f32 [R,C]."""
        return F.normalize(self.text_proj(encoded[:, 0]).float(), dim=-1)

    def match(self, fused: Tensor) -> Tensor:
        """Fused text [R,L,W] to logits f32 [R,2]: does it not say, or say, what the video shows."""
        logits: Tensor = self.itm_head(fused[:, 0]).float()
        return logits


def mean_over_frames(videos: Tensor) -> Tensor:
    """Unit vectors of frames [B,P,C] to one vector [B,C]; its product with a text is the mean of theirs."""
    return videos.mean(dim=1)


def keeps_frames(mask: str | None, *, masks: Sequence[str | None]) -> bool:
    """Whether pooling keeps a vector for each frame: of what is seen whole, or where all masks are tubes.

    Source: METHOD.md, "Stage 2: video encoder".

    mask: its kind for the medium at hand, None where nothing is hidden. masks: those of all media.
    """
    return mask is None or all(kind == "tube" for kind in masks)
