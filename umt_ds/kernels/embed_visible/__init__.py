"""Raw pixels of the kept patches to placed tokens: gather, normalise, project, add the position, in one go.

Shapes: B clips, T frames, H x W pixels, p patch side, N = T·(H/p)·(W/p) tokens, V kept ones, D width.
"""

from __future__ import annotations

from torch import Tensor

from umt_ds.kernels.backend import runs_triton
from umt_ds.kernels.embed_visible import reference


def embed_visible(
    pixels: Tensor,
    keep: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    positions: Tensor | None,
    *,
    patch: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Tensor:
    """Tokens [B,V,D] in the dtype of `weight`; nothing is made for a patch that is not kept.

    pixels: u8 [B,T,H,W,3]. keep: i64 [B,V], t·h·w + y·w + x; None keeps all N. weight: [D,3·p·p] in the order
    (channel, row, column); bias [D]. positions: f32 [N,D], added to each token; None adds nothing.
    mean, std: of the RGB channels, for values in 0 … 1. Gradients flow to weight and bias, not to positions.
    """
    assert positions is None or not positions.requires_grad
    if runs_triton(weight):
        from umt_ds.kernels.embed_visible import triton

        return triton.embed_visible(pixels, keep, weight, bias, positions, patch=patch, mean=mean, std=std)
    return reference.embed_visible(pixels, keep, weight, bias, positions, patch=patch, mean=mean, std=std)
