"""Softmax attention: one door over what computes it fastest on a device.

Where flash-attn is installed and takes the tensors it is used (`flash.py` says which of its versions), else torch's own
fused attention. `reference.py` says what all of them compute.

Text asks for more (padded keys, causal answers, dropout of the weights): that is always torch's.

Shapes: B sequences, N queries, M keys and values, H heads, d width of a head, L tokens of all sequences in a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from umt_ds.kernels.attention import flash, fused
from umt_ds.kernels.attention.lengths import Lengths

__all__ = ["Lengths", "attention", "attention_packed"]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    is_key: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(query · keyᵀ / √d) · value for each head: [B,N,H,d] with [B,M,H,d] twice to [B,N,H,d].

    Any strides but a last axis that is contiguous; statistics in fp32. torch.compile traces through it.
    is_key: bool [B,M], False where a key is padding; each sequence has one key at least. causal: query n sees keys 0 to
    n; not together with is_key, as padding at the end comes after every token. dropout: of the weights.
    """
    if is_key is not None or causal or dropout > 0:
        return fused.attention(query, key, value, is_key=is_key, causal=causal, dropout=dropout)
    version = _flash_version(query.device, query.dtype, query.shape[-1])
    if version is None:
        return fused.attention(query, key, value)
    return flash.attention(query, key, value, version=version)


def attention_packed(query: Tensor, key: Tensor, value: Tensor, lengths: Lengths) -> Tensor:
    """`attention` of each sequence with itself, all of them in a row without padding: [L,H,d] three times to [L,H,d].

    Images and clips can share such a row. Raises ValueError where the lengths do not sum to L.
    """
    if lengths.total != len(query):
        raise ValueError(f"sequences of {lengths.total} tokens in all, but a row of {len(query)}")
    version = _flash_version(query.device, query.dtype, query.shape[-1])
    if version is None:
        return fused.attention_packed(query, key, value, lengths)
    return flash.attention_packed(query, key, value, lengths, version=version)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _flash_version(device: torch.device, dtype: torch.dtype, width: int) -> flash.Version | None:
    """A compiled block asks once, while it is traced; then its choice is fixed, as it is in the process."""
    return flash.chosen_version(device, dtype, width)
