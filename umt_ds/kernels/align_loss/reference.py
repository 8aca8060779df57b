"""What `align_loss` computes, in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def align_loss(hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor, *, eps: float) -> Tensor:
    """The mean over tokens of 2 - 2·cos(LayerNorm(hidden), target), statistics and sums in fp32.

    Source: METHOD.md, "Aligned layers and decoders", "Alignment loss".
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    student = F.layer_norm(hidden.to(wide), hidden.shape[-1:], weight.to(wide), bias.to(wide), eps)
    target = target.detach().to(wide)
    lengths = torch.linalg.vector_norm(student, dim=-1) * torch.linalg.vector_norm(target, dim=-1)
    cosine: Tensor = (student * target).sum(dim=-1) / lengths
    return (2 - 2 * cosine).mean()
