"""The student of stage 1: a video transformer and one small decoder for each aligned layer.

State-dict keys are those of the published pretraining checkpoints (METHOD.md, "Names of weights").

Shapes: B clips, V visible tokens, D width, K aligned layers, C width of the teacher's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from umt_ds.kernels.align_loss import align_loss
from umt_ds.models.layers import NORM_EPS, initialise_linear
from umt_ds.models.vit import Clips, VideoViT, VitOutput, tap_layers

FeatureNorm = Literal["l2", "none"]


def unit_length(features: Tensor) -> Tensor:
    """Divide by the L2 norm over the last axis, in fp32 and without an epsilon (as published)."""
    wide = features.float()
    unit: Tensor = wide / wide.norm(dim=-1, keepdim=True)
    return unit


class AlignmentNorm(nn.LayerNorm):
    """The decoder's LayerNorm; given a target, norm and distance at once. A module: ZeRO-3 gathers its weight."""

    def forward(self, input: Tensor, target: Tensor | None = None) -> Tensor:
        """[B,V,C] to [B,V,C], or with a target of that shape to the scalar mean of 2 - 2·cos, fp32."""
        if target is None:
            return super().forward(input)
        return align_loss(input, self.weight, self.bias, target, eps=self.eps)


class AlignmentDecoder(nn.Module):
    """Linear, then LayerNorm: student width to teacher width. (The paper says the reverse.)

    Source: METHOD.md, "Aligned layers and decoders".
    """

    def __init__(self, *, width: int, out_width: int, eps: float = NORM_EPS) -> None:
        super().__init__()
        self.head = nn.Linear(width, out_width)
        self.norm = AlignmentNorm(out_width, eps=eps)
        self.apply(initialise_linear)

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        """[B,V,D] to features [B,V,C], or with a target [B,V,C] to how far they are from it: f32 scalar."""
        out: Tensor = self.norm(self.head(x), target)
        return out


class AlignmentModel(nn.Module):
    """Encoder, and decoder k for the k-th tapped block in ascending order.

    norm: "l2" makes each output token a unit vector, "none" leaves it as the decoder made it.
    decoder_eps: of the decoders' LayerNorm; 1e-6 in stage 1, 1e-5 in stage 2. layers: 0 aligns nothing.
    """

    def __init__(
        self,
        encoder: VideoViT,
        *,
        out_width: int,
        layers: int = 6,
        interval: float = 1.0,
        norm: FeatureNorm = "l2",
        decoder_eps: float = NORM_EPS,
    ) -> None:
        super().__init__()
        self.taps = tap_layers(encoder.size.depth, layers, interval) if layers else ()
        self.norm: FeatureNorm = norm
        self.encoder = encoder
        self.clip_decoder = nn.ModuleList(
            AlignmentDecoder(width=encoder.size.width, out_width=out_width, eps=decoder_eps) for _ in range(layers)
        )

    def forward(self, pixels: Tensor, keep: Tensor | None = None, drop_noise: Tensor | None = None) -> Tensor:
        """Features to compare with the teacher's: [K,B,V,C], fp32 if norm is "l2". Inputs as `VideoViT`."""
        return self.decode(self.encode(pixels, keep, drop_noise), pixels, keep)

    def encode(self, pixels: Tensor, keep: Tensor | None = None, drop_noise: Tensor | None = None) -> VitOutput:
        """The encoder's normed last tokens [B,V,D] and K normed taps [B,V,D]."""
        output: VitOutput = self.encoder(pixels, keep=keep, taps=self.taps, drop_noise=drop_noise)
        return output

    def encode_packed(self, parts: Sequence[Clips]) -> list[VitOutput]:
        """`encode` of clips and images in one row."""
        return self.encoder.forward_packed(parts, taps=self.taps)

    def decode(self, output: VitOutput, pixels: Tensor, keep: Tensor | None) -> Tensor:
        """The decoders' features [K,B,V,C] for the taps of a pass over the same pixels and kept tokens."""
        placed = self._place(output, pixels, keep)
        features = torch.stack([decoder(x) for decoder, x in zip(self.clip_decoder, placed, strict=True)])
        return unit_length(features) if self.norm == "l2" else features

    def distance(self, output: VitOutput, pixels: Tensor, keep: Tensor | None, targets: Sequence[Tensor]) -> Tensor:
        """Mean of 2 - 2·cos between features and K targets [B,V,C] of any length: f32 scalar.

        The same as `decode` and its loss (METHOD.md, "Alignment loss"), layer by layer, so the features of all
        layers are never in memory at once.
        """
        placed = self._place(output, pixels, keep)
        layers = [decoder(x, t) for decoder, x, t in zip(self.clip_decoder, placed, targets, strict=True)]
        return torch.stack(layers).mean()

    def _place(self, output: VitOutput, pixels: Tensor, keep: Tensor | None) -> list[Tensor]:
        """The taps with the position table added a second time: the paper does not mention it, published weights do."""
        table = self.encoder.position_table(pixels)
        rows = (table if keep is None else table[keep]).type_as(output.tokens)
        return [tap + rows for tap in output.taps]
