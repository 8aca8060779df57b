"""Whether tensors of a file are what weights must be: finite real numbers, as many as the file has room for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from umt_ds.errors import WeightsError
from umt_ds.weights.names import is_bookkeeping, some

_REAL = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def require_weights(state: Mapping[str, Tensor], *, where: str, max_bytes: int | None = None) -> None:
    """Raises WeightsError that names up to five tensors which are no weights, and says why.

    Counters and tables of positions may be whole numbers. max_bytes: more than that cannot be in a tensor, however
    large it says it is (one number can be made to look like a million).
    """
    wrong = [f"{name} {reason}" for name, value in state.items() if (reason := _why_none(name, value, max_bytes))]
    if wrong:
        raise WeightsError(
            f"{where} holds {len(wrong)} tensors that are no weights: {some(wrong)}",
            hint="save the trained weights as plain float tensors; where values are not finite, take an older file",
        )


def _why_none(name: str, value: Tensor, max_bytes: int | None) -> str | None:
    if value.is_meta:
        return "has no values (it is on the meta device)"
    if value.layout != torch.strided or value.is_nested:
        return "is sparse or nested"
    if value.is_quantized:
        return "is quantised"
    if max_bytes is not None and value.numel() * value.element_size() > max_bytes:
        return f"claims {value.numel():,} numbers, more than the file can hold"
    if is_bookkeeping(name):
        return None
    if value.dtype not in _REAL:
        return f"holds {str(value.dtype).removeprefix('torch.')}"
    as_used = value.float()  # a double may be too large for the models' floats
    if as_used.isfinite().all():
        return None
    return "holds NaN" if as_used.isnan().any() else "holds infinity"
