"""Rows of all ranks on every rank, with the gradient that an average over the ranks makes right.

DeepSpeed averages parameter gradients over W ranks. What has to flow back into a rank's rows depends on whose loss it
is.

Shapes: B rows of a rank, G = W·B rows of all, in the order of the ranks.
"""

from __future__ import annotations

from typing import Any, Literal, assert_never

import torch
import torch.distributed as dist
from torch import Tensor

from umt_ds.distributed.collectives import active

Gradient = Literal["same_loss", "own_losses", "sliced"]
"""same_loss: every rank computes one and the same loss of all rows. Its gradient is known everywhere: this rank's part
of it, W times, since the others' parameters will not see it. own_losses: each rank has a loss of its own, and the whole
is their mean: the gradients of all ranks are added. sliced: as same_loss, without the factor: what the published code
does, 1/W of the gradient (SPEC 7.4)."""


def gather_rows(rows: Tensor, *, gradient: Gradient) -> Tensor:
    """[B,…] of each rank to [G,…]; every rank gives as many rows. Alone: the rows themselves."""
    if not active():
        return rows
    gathered: Tensor = _Gather.apply(rows, gradient)
    return gathered


def _gather(rows: Tensor) -> Tensor:
    out = rows.new_empty(dist.get_world_size() * len(rows), *rows.shape[1:])
    dist.all_gather_into_tensor(out, rows.contiguous())
    return out


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, gradient: Gradient) -> Tensor:
        ctx.gradient, ctx.rows = gradient, len(rows)
        if rows.dtype != torch.bool:
            return _gather(rows)
        return _gather(rows.to(torch.uint8)).bool()  # NCCL knows no bool

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole, kind = gradients[0], ctx.gradient
        if kind == "own_losses":
            whole = whole.contiguous().clone()
            dist.all_reduce(whole)
        own = whole[dist.get_rank() * ctx.rows :][: ctx.rows]
        match kind:
            case "same_loss":
                return own * dist.get_world_size(), None
            case "own_losses" | "sliced":
                return own, None
            case _:
                assert_never(kind)
