"""The video transformer as a classifier: the mean of all tokens, normed, and a linear head.

Parameter names are those of published fine-tuned files, in which the encoder has no prefix.
Source: METHOD.md, "Recognition: model".

Shapes: B clips, T frames, N tokens, D width, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from umt_ds.models.layers import NORM_EPS
from umt_ds.models.positions import BaseClip
from umt_ds.models.presets import VitSize
from umt_ds.models.vit import VideoViT

_STD = 0.02  # of the normal distribution from which a new head is drawn, before it is scaled


class VideoClassifier(VideoViT):
    """`VideoViT` with `fc_norm` and `head` instead of `norm`.

    head_scale: what the weights of the new head are multiplied with. base: the clip of pretraining, whose positions are
    stretched.
    """

    def __init__(
        self,
        size: VitSize,
        *,
        classes: int,
        drop_path: float = 0.0,
        checkpoint_blocks: int = 0,
        head_scale: float = 0.001,
        base: BaseClip = BaseClip(),  # noqa: B008  (immutable)
    ) -> None:
        super().__init__(
            size,
            drop_path=drop_path,
            checkpoint_blocks=checkpoint_blocks,
            final_norm=False,
            positions="interpolated",
            base=base,
        )
        self.fc_norm = nn.LayerNorm(size.width, eps=NORM_EPS)
        self.head = nn.Linear(size.width, classes)
        with torch.no_grad():
            nn.init.normal_(self.head.weight, std=_STD).mul_(head_scale)
            nn.init.zeros_(self.head.bias)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters make a layer, as timm asks it: the patch embedding is layer 0, block i is layer i + 1, and
        all else the last one (METHOD.md, "Optimisation: recognition")."""
        return {"stem": r"^patch_embed\.", "blocks": [(r"^blocks\.(\d+)\.", None)]}

    def features(self, pixels: Tensor, drop_noise: Tensor | None = None) -> Tensor:
        """The normed mean of all tokens: clips as `VideoViT.forward` takes them → [B,D]."""
        tokens = VideoViT.forward(self, pixels, drop_noise=drop_noise).tokens
        out: Tensor = self.fc_norm(tokens.mean(dim=1, dtype=torch.float32).type_as(tokens))
        return out

    def logits(self, pixels: Tensor, drop_noise: Tensor | None = None) -> Tensor:
        """Of each class: clips as `VideoViT.forward` takes them → [B,C]."""
        out: Tensor = self.head(self.features(pixels, drop_noise))
        return out
