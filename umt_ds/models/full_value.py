"""Parameters whose exact value counts, in a module that is trained in bf16 or fp16.

DeepSpeed casts all parameters, and steps fp32 copies of them that it keeps to itself. A matrix does not mind, but bf16
has .0698 and .0703 and nothing between: a temperature of .07 would be off by .3 % and stand still for hundreds of
steps. Such a parameter carries its fp32 value beside it (`keep_full`), which `engine.deepspeed` renews after each step,
and the module calculates with that (`full_value`). Name, shape, decay and gradient stay those of any parameter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_NAME = "umt_full_value"  # an attribute of the parameter: no cast and no checkpoint knows of it


def keep_full(parameter: nn.Parameter, value: Tensor | None = None) -> None:
    """Say the fp32 value that a parameter stands for: `value`, of the same shape, or what it holds now."""
    held = parameter if value is None else value
    setattr(parameter, _NAME, held.detach().to(parameter.device, torch.float32, copy=True))


def is_kept_full(parameter: nn.Parameter) -> bool:
    """Whether `keep_full` was called for it."""
    return hasattr(parameter, _NAME)


def full_value(parameter: nn.Parameter) -> Tensor:
    """The parameter in fp32, as it was said; gradients flow to the parameter.

    A parameter that no longer is the rounding of what was said has been changed by others, and stands for itself.
    """
    own = parameter.float()
    said: Tensor | None = getattr(parameter, _NAME, None)
    if said is None or parameter.dtype == torch.float32:
        return own
    said = said.to(parameter.device)
    exact = torch.where(said.to(parameter.dtype) == parameter.detach(), said, own.detach())
    return own + (exact - own.detach())  # the difference of neighbours is exact, and so is the sum
