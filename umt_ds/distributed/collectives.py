"""Small collectives by which ranks agree. Every rank calls each of them, always."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor


def active() -> bool:
    """Is there a process group with more than one rank?"""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_first_rank() -> bool:
    """Is this rank 0, or no rank of a group at all? For what is said once. No collective."""
    return not active() or dist.get_rank() == 0


def any_rank(flag: bool, device: torch.device) -> bool:
    """True on every rank if it is true on one."""
    raised = torch.tensor(int(flag), device=device)
    if active():
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
    return bool(raised)


def mean_over_ranks(values: Tensor) -> Tensor:
    """Mean over the ranks of an fp32 tensor."""
    if active():
        values = values.clone()
        dist.all_reduce(values, op=dist.ReduceOp.SUM)
        values /= dist.get_world_size()
    return values


def barrier() -> None:
    """Wait for every rank."""
    if active():
        dist.barrier()


T = TypeVar("T")


def broadcast_object(value: T, source: int = 0) -> T:
    """`value` of rank `source` on every rank (small picklable objects among our own processes)."""
    box = [value]
    if active():
        dist.broadcast_object_list(box, src=source)
    return box[0]


def gather_objects(value: T) -> list[T]:
    """`value` of each rank, in their order, on every rank (picklable objects among our own processes)."""
    if not active():
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return cast("list[T]", values)


def gather_uneven(rows: Tensor, device: torch.device) -> Tensor:
    """[B,…] of each rank, of any B, to [G,…] in the order of the ranks, on the CPU. device: of the process group.

    Alone: the rows themselves.
    """
    if not active():
        return rows.cpu()
    counts = gather_objects(len(rows))
    padded = torch.zeros(max(counts), *rows.shape[1:], dtype=rows.dtype, device=device)
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([own[:count].cpu() for own, count in zip(gathered, counts, strict=True)])
