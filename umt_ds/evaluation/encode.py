"""A model over an evaluation set, on all ranks: what it makes of each item, in the order of the set, on every rank.

Shapes: B items of a batch, N items of a set, … what the model makes of one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from umt_ds.data.evaluation import EvalBatch, EvaluationSet, ItemInfo, LeftOut
from umt_ds.distributed.collectives import broadcast_object, gather_objects, gather_uneven
from umt_ds.distributed.world import World
from umt_ds.errors import NonFiniteError, UmtError, shown
from umt_ds.evaluation.evaluator import Beat

Encode = Callable[[Tensor], Tensor]
"""Pixels u8 [B,T,H,W,3] to one tensor a clip, any float [B,…]."""
Look = Callable[[EvalBatch], Mapping[str, Tensor]]
"""A batch to tensors by name, whose first rows are of its items; a batch without items has the pixels of one."""

ALONE = World.alone()
T = TypeVar("T")


@dataclass(frozen=True)
class EncodedSet:
    """items: the N that could be read, in the order of the set. vectors: by encoder, f32 [N,…] on the CPU."""

    items: tuple[ItemInfo, ...]
    left_out: tuple[LeftOut, ...]
    vectors: Mapping[str, Tensor]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(item.key for item in self.items)

    @property
    def stored_frames(self) -> tuple[int, int] | None:
        """The fewest and the most that an item has, of which some were shown; None where all of the video count."""
        counts = [item.stored_frames for item in self.items if item.stored_frames is not None]
        return (min(counts), max(counts)) if counts else None


def no_beat() -> None:
    """Where nobody watches."""


def encode_set(
    encoders: Mapping[str, Encode],
    items: EvaluationSet,
    world: World = ALONE,
    *,
    device: torch.device | None = None,
    num_workers: int = 0,
    beat: Beat = no_beat,
) -> EncodedSet:
    """Each item read once, by one rank, and put through every encoder. Arguments and errors as of `look_at_set`."""

    def look(batch: EvalBatch) -> Mapping[str, Tensor]:
        return {name: encode(batch.pixels) for name, encode in encoders.items()}

    return look_at_set(look, items, world, device=device, num_workers=num_workers, beat=beat)


@torch.no_grad()
def look_at_set(
    look: Look,
    items: EvaluationSet,
    world: World = ALONE,
    *,
    device: torch.device | None = None,
    num_workers: int = 0,
    beat: Beat = no_beat,
) -> EncodedSet:
    """Each item read once, by one rank, and looked at with those of its batch. device: of the process group; None: the
    CPU. Arguments and errors as of `each_turn` and `gather_items`."""
    vectors: dict[str, list[Tensor]] = {}
    read: list[ItemInfo] = []
    left_out: list[LeftOut] = []
    with closing(each_turn(items, world, num_workers=num_workers, beat=beat)) as turns:
        for batch in turns:
            for name, found in look(batch).items():
                vectors.setdefault(name, []).append(found[: len(batch.items)].float().cpu())
            read += batch.items
            left_out += batch.left_out
    gathered, order = gather_items(items, read, left_out)
    group = device or torch.device("cpu")
    together = {name: gather_uneven(torch.cat(parts), group)[order] for name, parts in vectors.items()}
    return replace(gathered, vectors=together)


def each_turn(
    items: EvaluationSet, world: World, *, num_workers: int = 0, beat: Beat = no_beat
) -> Generator[EvalBatch]:
    """The batches of a rank, each item read once, by one rank: as many as every other rank has, the last ones without
    items where it has none left, so that all make as many forward passes. Close it.

    A rank that cannot read goes on without items, and at the end all ranks raise its error: DataError or MachineError,
    as `EvaluationSet.batches`.
    """
    failure: UmtError | None = None
    with closing(items.batches(rank=world.rank, world=world.size, num_workers=num_workers)) as batches:
        for _ in range(items.turns(world.size)):
            batch = items.empty_batch()
            if failure is None:
                try:
                    batch = next(batches)
                except UmtError as error:
                    failure = error
            yield batch
            beat()
    raise_together(failure)


def gather_items(
    items: EvaluationSet, read: Sequence[ItemInfo], left_out: Sequence[LeftOut]
) -> tuple[EncodedSet, list[int]]:
    """What all ranks have read and left out, still without vectors; and at which place each item lies among those of
    all ranks, one rank after the other. Every rank calls it with its own.

    Raises DataError on all ranks, as `EvaluationSet.check` does.
    """
    of_ranks = gather_objects((list(read), list(left_out)))
    every = [item for some, _ in of_ranks for item in some]
    missing = tuple(one for _, some in of_ranks for one in some)
    try:
        items.check(missing)
    except UmtError as error:
        error.by_all_ranks()
        raise
    order = sorted(range(len(every)), key=lambda place: every[place].number)
    ordered = tuple(every[place] for place in order)
    return EncodedSet(ordered, tuple(sorted(missing, key=lambda one: one.key)), {}), order


def raise_together(failure: UmtError | None) -> None:
    """Raise on all ranks what the first rank that failed has met; nothing where none has."""
    met = next((error for error in gather_objects(failure) if error is not None), None)
    if met is not None:
        raise met.by_all_ranks()


def refuse_non_finite(keys: Sequence[str], is_finite: Sequence[bool], *, where: str) -> None:
    """Raises NonFiniteError on all ranks where a model says something of an item that is not a number."""
    broken = [key for key, finite in zip(keys, is_finite, strict=True) if not finite]
    if broken:
        raise NonFiniteError(
            f"{where}: what the model says of {len(broken)} of {len(keys)} clips is not a number, first of "
            f"{shown(broken[0])}",
            hint="the weights or the activations have left the range of their precision: judge an earlier checkpoint",
            again=True,
        ).by_all_ranks()


def on_first_rank(world: World, compute: Callable[[], T]) -> T:
    """What `compute` gives on the first rank, on all of them: work that is not worth sharing, done once."""
    return broadcast_object(compute() if world.is_first else None)  # type: ignore[return-value]


PRECISION = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def place_of(module: nn.Module) -> tuple[torch.device, str]:
    """The device of a module, and the precision of its weights."""
    first = next(module.parameters())
    return first.device, PRECISION[first.dtype]
