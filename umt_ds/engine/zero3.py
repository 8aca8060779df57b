"""What ZeRO 3 of DeepSpeed 0.19.8 leaves to its user: parameters that a part borrows, and parts that do not divide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn


def borrowed(module: nn.Module) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    """Modules with the parameters of others that they use, as they say in `borrowed`.

    In the forward pass of the whole engine DeepSpeed 0.19.8 finds out by itself; in an evaluation, which calls parts of
    the module, it would leave such a parameter scattered.
    """
    for part in module.modules():
        yield from getattr(part, "borrowed", ())


def own_partition(parameter: Any, value: Tensor) -> Tensor:
    """ZeRO-3: this rank's equal part of a full tensor, the last part padded with zeros.

    DeepSpeed's setter of full tensors fails where the size is not a multiple of the world size.
    """
    size = parameter.ds_tensor.numel()
    padded = value.new_zeros(size * dist.get_world_size())
    padded[: value.numel()] = value.flatten()
    return padded[size * dist.get_rank() :][:size]
