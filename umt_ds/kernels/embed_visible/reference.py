"""What `embed_visible` computes, in plain torch."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

Triple = tuple[float, float, float]


def embed_visible(
    pixels: Tensor,
    keep: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    positions: Tensor | None,
    *,
    patch: int,
    mean: Triple,
    std: Triple,
) -> Tensor:
    """token = weight · (patch/255 - mean)/std + bias + position, with the normalisation folded into weight and bias."""
    weight, bias = folded(weight, bias, patch=patch, mean=mean, std=std)
    tokens = F.linear(centred_patches(pixels, keep, patch=patch, mean=mean, dtype=weight.dtype), weight, bias)
    if positions is None:
        return tokens
    return tokens + (positions if keep is None else positions[keep]).type_as(tokens)


def centred_patches(pixels: Tensor, keep: Tensor | None, *, patch: int, mean: Triple, dtype: torch.dtype) -> Tensor:
    """The kept patches, in the order of memory (row, column, channel), minus `centre`: dtype [B,V,p·p·3]."""
    cut = torch.unflatten(torch.unflatten(pixels, 3, (-1, patch)), 2, (-1, patch))  # [B,T,h,p,w,p,3]
    grid = cut.transpose(3, 4)  # [B,T,h,w,p,p,3]
    if keep is None:
        patches = grid.flatten(1, 3)
    else:
        rows, cols = grid.shape[2:4]
        clip = torch.arange(len(grid), device=keep.device)[:, None]
        patches = grid[clip, keep // (rows * cols), keep // cols % rows, keep % cols]  # [B,V,p,p,3]
    return (patches.to(dtype) - _on_device(centre(mean), pixels.device).to(dtype)).flatten(2)


def folded(weight: Tensor, bias: Tensor, *, patch: int, mean: Triple, std: Triple) -> tuple[Tensor, Tensor]:
    """Weight [D,p·p·3] and bias [D] that take `centred_patches` instead of normalised ones, in fp32 until the end.

    weight: [D,3·p·p] in the order (channel, row, column) of a Conv2d.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    scale = _on_device(tuple(1 / (255 * s) for s in std), weight.device).to(wide)
    shift = _on_device(tuple((c / 255 - m) / s for c, m, s in zip(centre(mean), mean, std, strict=True)), weight.device)
    by_channel = weight.to(wide).view(-1, 3, patch, patch).permute(0, 2, 3, 1)  # [D,p,p,3]
    bias = bias.to(wide) + (by_channel * shift.to(wide)).sum(dim=(1, 2, 3))
    return (by_channel * scale).flatten(1).to(weight.dtype), bias.to(weight.dtype)


def centre(mean: Triple) -> Triple:
    """A whole number near each channel's mean: subtracted before the product, it keeps the sums small.

    Whole numbers from -255 to 255 are exact in bf16, which a normalised pixel is not.
    """
    return (float(round(255 * mean[0])), float(round(255 * mean[1])), float(round(255 * mean[2])))


@lru_cache(maxsize=64)
def _on_device(values: Triple, device: torch.device) -> Tensor:
    """f64 [3], kept: a copy to the device each step would wait for it."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float64).to(device)
