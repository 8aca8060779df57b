"""Softmax attention: one door over what computes it fastest on a device.

Shapes: B sequences, N queries, M keys and values, H heads, d width of a head.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query · keyᵀ / √d) · value for each head: [B,N,H,d] with [B,M,H,d] twice to [B,N,H,d]."""
    mixed = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return mixed.transpose(1, 2)
