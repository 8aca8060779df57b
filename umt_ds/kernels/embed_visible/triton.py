"""`embed_visible` as one matrix product that reads its left side straight from the pixels.

A program makes a tile of tokens times features. It walks over the pixels of a patch in the order of memory (row,
column, channel): 3·p bytes lie side by side, 48 of them for p = 16. Pixels minus `centre` are whole numbers, exact in
bf16 and fp16; the folded weight does the rest. Bias and position are added to the fp32 sum, which is rounded once.
Nothing of the size of the patches is ever written.

fp32 weights are multiplied in fp32 (`ieee`), not in TF32: they are for comparing with the reference, not for speed.

The backward pass gathers the patches again (the reference does, pixels are cheap to keep) for one product with the
gradient. From the folded weight back to the given one, autograd follows `reference.folded`.

Shapes: B clips, T frames, H x W pixels, p patch side, N tokens of a clip, V kept ones, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from umt_ds.kernels.embed_visible.reference import Triple, centre, centred_patches, folded
from umt_ds.kernels.launch import Launch, is_interpreted


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
    """As `umt_ds.kernels.embed_visible`, for fp32, bf16 and fp16 weights; sums in fp32."""
    weight, bias = folded(weight, bias, patch=patch, mean=mean, std=std)
    if pixels.stride(4) != 1 or pixels.stride(3) != 3:  # a crop of larger frames is read where it lies
        pixels = pixels.contiguous()
    tokens: Tensor = _EmbedVisible.apply(pixels, keep, weight, bias, positions, patch, mean)
    return tokens


class _EmbedVisible(torch.autograd.Function):
    """With folded weight [D,p·p·3] and bias [D]."""

    @staticmethod
    def forward(
        ctx: Any,
        pixels: Tensor,
        keep: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        positions: Tensor | None,
        patch: int,
        mean: Triple,
    ) -> Tensor:
        out = empty_tokens(pixels, keep, weight, patch=patch)
        launch(pixels, keep, weight, bias, positions, out, patch=patch, mean=mean).run()
        ctx.save_for_backward(pixels, keep)
        ctx.patch, ctx.mean = patch, mean
        return out

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        pixels, keep = ctx.saved_tensors
        gradient = upstream[0].flatten(0, 1)  # [B·V,D]
        weight = bias = None
        if ctx.needs_input_grad[2]:
            patches = centred_patches(pixels, keep, patch=ctx.patch, mean=ctx.mean, dtype=gradient.dtype)
            weight = gradient.t() @ patches.flatten(0, 1)
        if ctx.needs_input_grad[3]:
            bias = gradient.sum(dim=0)
        return None, None, weight, bias, None, None, None


def empty_tokens(pixels: Tensor, keep: Tensor | None, weight: Tensor, *, patch: int) -> Tensor:
    """Unwritten memory for the tokens [B,V,D]."""
    clips, frames, height, width = pixels.shape[:4]
    count = frames * (height // patch) * (width // patch) if keep is None else keep.shape[1]
    return weight.new_empty(clips, count, len(weight))


def launch(
    pixels: Tensor,
    keep: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    positions: Tensor | None,
    out: Tensor,
    *,
    patch: int,
    mean: Triple,
) -> Launch:
    """The product, with folded weight and bias. pixels: of stride 1 and 3 in channel and column. out: contiguous."""
    clips, visible, features = out.shape
    tokens = clips * visible
    wide = weight.dtype == torch.float32  # its tiles take twice the room
    block_tokens, block_features, block_pixels = (64, 64, 32) if wide else (128, 128, 64)
    red, green, blue = centre(mean)
    arguments = {
        "pixels": pixels,
        "keep": None if keep is None else keep.contiguous(),
        "weight": weight.contiguous(),
        "bias": bias,
        "positions": None if positions is None else positions.contiguous(),
        "out": out,
        "tokens": tokens,
        "visible": visible,
        "grid_rows": pixels.shape[2] // patch,
        "grid_cols": pixels.shape[3] // patch,
        "clip_stride": pixels.stride(0),
        "frame_stride": pixels.stride(1),
        "row_stride": pixels.stride(2),
        "red": red,
        "green": green,
        "blue": blue,
        "features": features,
        "patch": patch,
        "block_tokens": block_tokens,
        "block_features": block_features,
        "block_pixels": block_pixels,
        "widen": is_interpreted(),  # the interpreter multiplies the bits of bf16 numbers as integers (seen: 3.8)
    }
    grid = (triton.cdiv(tokens, block_tokens) * triton.cdiv(features, block_features),)
    return Launch(_embed, grid, arguments, warps=4 if wide else 8)


@triton.jit
def _embed(
    pixels,
    keep,
    weight,
    bias,
    positions,
    out,
    tokens,
    visible,
    grid_rows,
    grid_cols,
    clip_stride,
    frame_stride,
    row_stride,
    red: tl.constexpr,
    green: tl.constexpr,
    blue: tl.constexpr,
    features: tl.constexpr,
    patch: tl.constexpr,
    block_tokens: tl.constexpr,
    block_features: tl.constexpr,
    block_pixels: tl.constexpr,
    widen: tl.constexpr,
):
    size: tl.constexpr = patch * patch * 3
    columns: tl.constexpr = (features + block_features - 1) // block_features
    # Neighbours share their tokens: pixels are read from memory once, and for the other features from the cache.
    token = (tl.program_id(0) // columns) * block_tokens + tl.arange(0, block_tokens)
    feature = (tl.program_id(0) % columns) * block_features + tl.arange(0, block_features)
    is_token, is_feature = token < tokens, feature < features

    clip = token // visible
    index = token % visible  # of the token in its clip
    if keep is not None:
        index = tl.load(keep + token, mask=is_token, other=0)
    frame = index // (grid_rows * grid_cols)
    row = index // grid_cols % grid_rows
    corner = clip.to(tl.int64) * clip_stride + frame * frame_stride
    corner += row * patch * row_stride + index % grid_cols * patch * 3

    total = tl.zeros([block_tokens, block_features], tl.float32)
    for start in range(0, size, block_pixels):
        byte = start + tl.arange(0, block_pixels)
        inside = byte < size
        offset = byte // (3 * patch) * row_stride + byte % (3 * patch)
        middle = tl.where(byte % 3 == 0, red, tl.where(byte % 3 == 1, green, blue))
        raw = tl.load(pixels + corner[:, None] + offset[None, :], mask=is_token[:, None] & inside[None, :], other=0)
        value = (raw.to(tl.float32) - middle[None, :]).to(weight.dtype.element_ty)
        is_factor = is_feature[None, :] & inside[:, None]
        factor = tl.load(weight + feature[None, :] * size + byte[:, None], mask=is_factor, other=0)  # 0 past the end
        if widen:
            value, factor = value.to(tl.float32), factor.to(tl.float32)
        total = tl.dot(value, factor, total, input_precision="ieee")

    total += tl.load(bias + feature, mask=is_feature, other=0).to(tl.float32)[None, :]
    inside_out = is_token[:, None] & is_feature[None, :]
    if positions is not None:
        position = tl.load(positions + index[:, None] * features + feature[None, :], mask=inside_out, other=0)
        total += position.to(tl.float32)
    written = token.to(tl.int64)[:, None] * features + feature[None, :]
    tl.store(out + written, total.to(out.dtype.element_ty), mask=inside_out)
