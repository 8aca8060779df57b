"""What `attention` computes, in plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from umt_ds.kernels.attention.lengths import Lengths


def attention(
    query: Tensor, key: Tensor, value: Tensor, *, is_key: Tensor | None = None, causal: bool = False
) -> Tensor:
    """softmax(query · keyᵀ / √d) · value, all of it in fp32 (fp64 for fp64) until the end; without dropout."""
    wide = torch.promote_types(query.dtype, torch.float32)
    logits = torch.einsum("bnhd,bmhd->bhnm", query.to(wide), key.to(wide)) / math.sqrt(query.shape[-1])
    if is_key is not None:
        logits = logits.masked_fill(~is_key[:, None, None, :], -math.inf)
    if causal:
        comes_after = torch.ones_like(logits[0, 0], dtype=torch.bool).triu(1)  # [N,M]
        logits = logits.masked_fill(comes_after, -math.inf)
    return torch.einsum("bhnm,bmhd->bnhd", logits.softmax(dim=-1), value.to(wide)).to(query.dtype)


def attention_packed(query: Tensor, key: Tensor, value: Tensor, lengths: Lengths) -> Tensor:
    """Sequence by sequence."""
    rows = [torch.split(tensor, list(lengths.tokens)) for tensor in (query, key, value)]
    return torch.cat([attention(q[None], k[None], v[None])[0] for q, k, v in zip(*rows, strict=True)])
