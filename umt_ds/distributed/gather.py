"""Rows of all ranks on every rank, with a gradient that is right once gradients are averaged over the ranks.

DeepSpeed averages the gradients of parameters over W ranks. So the gradient that flows back into a rank's rows depends
on which loss reads the gathered rows: one loss that all ranks compute alike, or a loss of each rank.

Shapes: B rows of a rank, G = W·B rows of all, in the order of the ranks.
"""

from __future__ import annotations

from typing import Any, Literal, assert_never

import torch
import torch.distributed as dist
from torch import Tensor

from umt_ds.distributed.collectives import active

Gradient = Literal["same_loss", "own_losses", "sliced"]
"""What the backward pass gives to a rank's own rows, of the gradient of all gathered rows:

same_loss:  the own slice, times W. All ranks compute the same loss of all rows, so each has the whole gradient already;
            the factor undoes the averaging. For the contrastive loss.
own_losses: the own slice of the sum over ranks. Each rank has a loss of its own and the objective is their mean. For
            negatives that come from other ranks.
sliced:     the own slice. With one loss on all ranks that is 1/W of the gradient, as published (METHOD.md, "VTC").
"""


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
