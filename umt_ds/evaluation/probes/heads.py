"""The heads that probe frozen features: a linear one on the mean of a clip's tokens, an attentive one on all of them.

Shapes: B clips, n tokens, D width, C classes, N training clips.
"""

from __future__ import annotations

import torch
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from umt_ds.keyed import key_of

_BLOCKS = 4  # of the attentive head: self-attention in all but the last, which pools
_HEAD_WIDTH = 64
_STD = 0.02  # of new weights
_EPS = 1e-6


class LinearHead(nn.Module):
    """A linear layer on features of which each has mean 0 and deviation 1 over the training clips.

    That is what a BatchNorm without parameters (He et al. 2022, linear probing of MAE) converges to.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: Tensor, *, classes: int) -> None:
        """features: f32 [N,D] of the training clips."""
        super().__init__()
        deviation = features.std(dim=0, correction=0)
        self.register_buffer("mean", features.mean(dim=0))
        self.register_buffer("scale", torch.where(deviation > _EPS, 1 / deviation.clamp_min(_EPS), 0))  # one that says
        self.linear = nn.Linear(features.shape[1], classes)

    def forward(self, features: Tensor) -> Tensor:
        """f32 [B,D] → logits [B,C]."""
        out: Tensor = self.linear((features.float() - self.mean) * self.scale)
        return out


class AttentiveHead(nn.Module):
    """Three blocks of self-attention, a learned query that attends to the tokens, a linear layer.

    Source: METHOD.md, "Probes". The query is not added to what it finds, as it is there: the bias of the projection is
    such a constant already.
    """

    def __init__(self, width: int, *, classes: int) -> None:
        super().__init__()
        heads = next(n for n in range(max(1, width // _HEAD_WIDTH), 0, -1) if width % n == 0)
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True) for _ in range(_BLOCKS - 1)))
        self.norm = nn.LayerNorm(width)
        self.pool = AttentionPoolLatent(width, num_heads=heads, norm_layer=nn.LayerNorm)
        self.linear = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Any float [B,n,D] → logits [B,C]."""
        out: Tensor = self.linear(self.pool(self.norm(self.blocks(tokens.float()))))
        return out


def initialised(head: nn.Module, seed: int) -> nn.Module:
    """The head with weights drawn from a truncated normal distribution and biases of 0: the same for one seed."""
    generator = torch.Generator().manual_seed(key_of(seed, "probe", "weights") >> 1)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            is_norm = name.rpartition(".")[0].endswith(("norm", "norm1", "norm2"))
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=_STD, generator=generator)
            elif not is_norm or name.endswith("bias"):
                parameter.zero_()
    return head
