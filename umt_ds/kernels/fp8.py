"""Matrix products in FP8 (e4m3) for weights that never change: the frozen teacher's.

Weights are quantised once, one scale for each output channel; activations at each call, one scale for each row. The
product is torch's scaled matrix product, twice the rate of bf16 on chips that have it; a CPU does the same sum slowly.

Shapes: in, out features; rows R.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_FORMAT = torch.float8_e4m3fn
_LARGEST = torch.finfo(_FORMAT).max  # 448
_TINY = 1e-12  # a row of zeros has scale 0 otherwise


class Fp8Weight(NamedTuple):
    """values e4m3 [out,in], scale f32 [out,1]: the weight is values · scale."""

    values: Tensor
    scale: Tensor


def quantise(matrix: Tensor) -> Fp8Weight:
    """Each row of a float matrix [R,in] scaled so that its largest value is e4m3's largest."""
    scale = matrix.abs().amax(dim=-1, keepdim=True).float().clamp(min=_TINY) / _LARGEST
    return Fp8Weight((matrix.float() / scale).to(_FORMAT), scale)


def fp8_linear(x: Tensor, weight: Fp8Weight, bias: Tensor, *, scale: float = 1.0) -> Tensor:
    """scale · x · weightᵀ + bias, accumulated in fp32: float [..., in] to [..., out] in the dtype of x."""
    rows = quantise(x.flatten(0, -2))
    out = torch._scaled_mm(
        rows.values,
        weight.values.t(),
        scale_a=rows.scale * scale,
        scale_b=weight.scale.t(),
        bias=bias.to(x.dtype),
        out_dtype=x.dtype,
    )
    return out.view(*x.shape[:-1], -1)


def why_no_fp8(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why products in FP8 would not run, or not pay, on `device` beside a model of `dtype`; None where they do."""
    if device.type != "cuda":
        return "only a GPU multiplies FP8 faster"
    if torch.cuda.get_device_capability(device) < (8, 9):
        return f"{torch.cuda.get_device_name(device)} has no FP8 arithmetic (H100, L40S and later have)"
    if dtype is not torch.bfloat16:
        return f"the run is {dtype}, and row-wise scaled products give bf16 only"
    return None
