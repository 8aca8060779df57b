"""Attention by torch's own fused kernels; torch chooses among flash, cuDNN, memory-efficient and plain."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from umt_ds.kernels.attention.lengths import Lengths


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    is_key: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """As `umt_ds.kernels.attention.attention`, any dtype and device."""
    assert not (causal and is_key is not None), "torch's kernels take one of the two"
    mask = None if is_key is None else is_key[:, None, None, :]
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, dropout_p=dropout)
    return mixed.transpose(1, 2)


def attention_packed(query: Tensor, key: Tensor, value: Tensor, lengths: Lengths) -> Tensor:
    """One call for each run of sequences of equal length: a few, where images and clips stand together."""
    mixed, start = [], 0
    for length, count in lengths.runs:
        end = start + length * count
        run = (tensor[start:end] for tensor in (query, key, value))
        batch = [torch.unflatten(row, 0, (count, length)) for row in run]  # [count,length,H,d] each
        mixed.append(attention(*batch).flatten(0, 1))
        start = end
    return torch.cat(mixed)
