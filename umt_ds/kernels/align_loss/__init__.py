"""LayerNorm and cosine distance of student and teacher tokens, loss and gradient in one pass.

Shapes: … any leading axes, C width.
"""

from __future__ import annotations

from torch import Tensor

from umt_ds.kernels.align_loss import reference
from umt_ds.kernels.backend import runs_triton


def align_loss(hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor, *, eps: float) -> Tensor:
    """The mean over tokens of 2 - 2·cos(LayerNorm(hidden), target): an fp32 scalar.

    hidden [..., C], weight and bias [C] of the LayerNorm, target [..., C] of any length; no gradient flows to it.
    Raises ValueError where hidden and target differ in shape.

    Source: METHOD.md, "Aligned layers and decoders", "Alignment loss".
    """
    if hidden.shape != target.shape:  # broadcasting would hide a wrong pairing
        raise ValueError(f"hidden {tuple(hidden.shape)} and target {tuple(target.shape)} differ in shape")
    if runs_triton(hidden):
        from umt_ds.kernels.align_loss import triton

        return triton.align_loss(hidden, weight, bias, target, eps=eps)
    return reference.align_loss(hidden, weight, bias, target, eps=eps)
