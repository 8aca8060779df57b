"""`align_loss` in one pass over memory: each row is read once, and its gradient written at once.

Per row, with x̂ the normed row, s = weight·x̂ + bias, t the target: cos = s·t / (|s||t|), loss 2 - 2·cos, and

    d loss / ds = -2/|s| · (t/|t| - cos · s/|s|),   dx̂ = weight · ds,
    dx = (dx̂ - mean(dx̂) - x̂ · mean(dx̂ · x̂)) / deviation.

The gradient is kept in the dtype of `hidden` and of the *sum* over rows: of the mean it would be too small for fp16.
The backward pass multiplies it by what comes from above, divided by R. Weight and bias: each program sums its rows,
and torch sums the programs, in a fixed order (no atomics). How many programs there are follows from R alone.

Shapes: R rows, C width, P programs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from umt_ds.kernels.launch import Launch

_ROWS, _PROGRAMS = 16, 1024  # at least so many rows a program, at most so many programs
_SCALE_BLOCK = 1024


class Rows(NamedTuple):
    """What one pass makes: loss f32 [R], gradient [R,C] as hidden, weight and bias gradients f32 [P,C]."""

    loss: Tensor
    hidden: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def like(cls, hidden: Tensor) -> Rows:
        """Unwritten memory for `hidden` [R,C]."""
        rows, width = hidden.shape
        programs = min(triton.cdiv(rows, _ROWS), _PROGRAMS)
        partial = torch.empty(2, programs, width, dtype=torch.float32, device=hidden.device)
        loss = torch.empty(rows, dtype=torch.float32, device=hidden.device)
        return cls(loss, torch.empty_like(hidden), *partial.unbind())


def align_loss(hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor, *, eps: float) -> Tensor:
    """As `umt_ds.kernels.align_loss`, for fp32, bf16 and fp16; statistics, sums and the scalar in fp32."""
    loss: Tensor = _AlignLoss.apply(hidden, weight, bias, target.detach(), eps)
    return loss


class _AlignLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor, eps: float) -> Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1]).contiguous()
        out = Rows.like(flat)
        rows_launch(flat, weight, bias, target.reshape_as(flat).contiguous(), out, eps=eps).run()
        ctx.save_for_backward(out.hidden, out.weight.sum(dim=0), out.bias.sum(dim=0))
        ctx.shape, ctx.dtypes = hidden.shape, (weight.dtype, bias.dtype)
        return out.loss.mean()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradient, weight, bias = ctx.saved_tensors
        scale = upstream[0].float() / len(gradient)  # f32 scalar: of the mean over rows
        hidden = torch.empty_like(gradient)
        scale_launch(gradient, scale, hidden).run()
        weight_dtype, bias_dtype = ctx.dtypes
        return hidden.view(ctx.shape), (weight * scale).to(weight_dtype), (bias * scale).to(bias_dtype), None, None


def rows_launch(hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor, out: Rows, *, eps: float) -> Launch:
    """Loss and gradients of contiguous hidden and target [R,C]."""
    rows, width = hidden.shape
    programs = len(out.weight)
    arguments = {
        "hidden": hidden,
        "weight": weight,
        "bias": bias,
        "target": target,
        "loss": out.loss,
        "hidden_gradient": out.hidden,
        "weight_gradient": out.weight,
        "bias_gradient": out.bias,
        "rows": rows,
        "rows_each": triton.cdiv(rows, programs),
        "eps": eps,
        "width": width,
        "block": triton.next_power_of_2(width),
    }
    return Launch(_rows, (programs,), arguments, warps=4)


@triton.jit
def _rows(
    hidden,
    weight,
    bias,
    target,
    loss,
    hidden_gradient,
    weight_gradient,
    bias_gradient,
    rows,
    rows_each,
    eps,
    width: tl.constexpr,
    block: tl.constexpr,
):
    program = tl.program_id(0)
    column = tl.arange(0, block)
    inside = column < width
    w = tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    b = tl.load(bias + column, mask=inside, other=0).to(tl.float32)
    weight_sum = tl.zeros([block], tl.float32)
    bias_sum = tl.zeros([block], tl.float32)

    first = program.to(tl.int64) * rows_each  # makes `row` 64 bits wide
    for row in range(first, tl.minimum(first + rows_each, rows)):
        offset = row * width + column
        x = tl.load(hidden + offset, mask=inside, other=0).to(tl.float32)
        t = tl.load(target + offset, mask=inside, other=0).to(tl.float32)

        centred = tl.where(inside, x - tl.sum(x) / width, 0)
        scale = 1 / tl.sqrt_rn(tl.sum(centred * centred) / width + eps)
        normed = centred * scale
        s = w * normed + b

        s_length = tl.sqrt_rn(tl.sum(s * s))
        t_length = tl.sqrt_rn(tl.sum(t * t))
        cosine = tl.sum(s * t) / (s_length * t_length)
        tl.store(loss + row, 2 - 2 * cosine)

        ds = -2 / s_length * (t / t_length - cosine * s / s_length)
        weight_sum += ds * normed
        bias_sum += ds
        dn = w * ds
        dx = (dn - tl.sum(dn) / width - normed * (tl.sum(dn * normed) / width)) * scale
        tl.store(hidden_gradient + offset, dx.to(hidden_gradient.dtype.element_ty), mask=inside)

    partial = program * width + column
    tl.store(weight_gradient + partial, weight_sum, mask=inside)
    tl.store(bias_gradient + partial, bias_sum, mask=inside)


def scale_launch(values: Tensor, scale: Tensor, out: Tensor) -> Launch:
    """out = values · scale, one f32 number on the device, multiplied in fp32. (torch would round it to bf16 first.)"""
    count = values.numel()
    arguments = {"values": values, "scale": scale, "out": out, "count": count, "block": _SCALE_BLOCK}
    return Launch(_scale, (triton.cdiv(count, _SCALE_BLOCK),), arguments)


@triton.jit
def _scale(values, scale, out, count, block: tl.constexpr):
    offset = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = offset < count
    scaled = tl.load(values + offset, mask=inside, other=0).to(tl.float32) * tl.load(scale)
    tl.store(out + offset, scaled.to(out.dtype.element_ty), mask=inside)
