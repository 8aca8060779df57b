"""Other weights in the place of those that a module has, for as long as something is computed with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def swapped_weights(
    parameters: Sequence[nn.Parameter], value_of: Callable[[nn.Parameter], Tensor], *, zero3: Any = None
) -> Iterator[None]:
    """Inside, each parameter has another value; afterwards its own again, to the bit. Every rank calls it.

    No number is written over: what a parameter points to changes. Of a parameter that ZeRO-3 partitions it is what its
    partition points to, from which whole weights are gathered. value_of: of the whole parameter, at ZeRO-3 of this
    rank's partition; it is cast to the parameter's type. zero3: DeepSpeed's optimizer at stage 3 (0.19.8).
    """
    holders: list[Any] = list(parameters) if zero3 is None else [getattr(p, "ds_tensor") for p in parameters]  # noqa: B009
    own = [holder.data for holder in holders]
    _release_gathered(zero3)
    for parameter, holder in zip(parameters, holders, strict=True):
        holder.data = value_of(parameter).to(holder.device, holder.dtype)
    _gather_persistent(zero3)
    try:
        yield
    finally:
        _release_gathered(zero3)
        for holder, data in zip(holders, own, strict=True):
            holder.data = data
    _gather_persistent(zero3)  # which the ranks do together: not after an error, which others may not have met


def _release_gathered(zero3: Any) -> None:
    """Whole weights are copies of the partitions, and are gathered again where they are needed."""
    if zero3 is not None:
        zero3.parameter_offload.partition_all_parameters()


def _gather_persistent(zero3: Any) -> None:
    """The small parameters that every rank holds whole, as DeepSpeed gathers them after each step."""
    if zero3 is not None and zero3.persistent_parameters:
        zero3.persistent_parameters[0].all_gather(zero3.persistent_parameters)
