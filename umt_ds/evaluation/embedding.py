"""Clips and texts as vectors: what a trained module makes of them, and how it is shown a clip. Rooms of tasks say it.

Shapes: B clips, T frames, R texts, C width of a vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from umt_ds.data.clip_request import ClipRequest
from umt_ds.evaluation.encode import Encode
from umt_ds.models.vit import VideoViT


@dataclass(frozen=True)
class TextEmbedder:
    """texts: clean texts to unit vectors, f32 [R,C] on the CPU. clean: a text as it is tokenised; it raises ConfigError
    where nothing is left of it. can_match: whether the run has learned which texts match which clips."""

    texts: Callable[[list[str]], Tensor]
    clean: Callable[[str], str]
    can_match: bool


@dataclass(frozen=True)
class Embedder:
    """How a module in evaluation mode makes vectors.

    request: what it sees of a clip, one view. clips: u8 [B,T,side,side,3] to f32 [B,C] on the CPU. features: what such
    a vector is, for readers. encoder: the video transformer in the module. text: None where it reads no text; else
    clips and texts share one space.
    """

    request: ClipRequest
    clips: Encode
    features: str
    encoder: VideoViT
    text: TextEmbedder | None = None
