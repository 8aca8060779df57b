"""Which kernels run: Triton's on a GPU where Triton works, else the torch references.

UMT_KERNELS=auto does that. `torch` forces the references (attention: torch's own). `triton` wants Triton on a GPU and
fails where it does not work; with TRITON_INTERPRET=1 it takes CPU tensors too, which is how the kernels are tested.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor

from umt_ds.environment import Environment
from umt_ds.errors import MachineError
from umt_ds.kernels.launch import is_interpreted

log = logging.getLogger("umt_ds")

Wish = Literal["auto", "torch", "triton"]
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # fp64 is for tests, and the references take it


class Choice(NamedTuple):
    """Whether Triton runs, and why (not). `broken`: it should, but does not work here."""

    triton: bool
    why: str
    broken: bool = False


def runs_triton(tensor: Tensor) -> bool:
    """Whether the kernels that take `tensor` are Triton's. Raises ConfigError and MachineError as `choose`."""
    return tensor.dtype in _DTYPES and _chosen(tensor.device.type).triton


def wish() -> Wish:
    """What UMT_KERNELS says. Raises ConfigError for a word that it does not know."""
    return cast(Wish, Environment().choice("UMT_KERNELS", get_args(Wish)) or "auto")


def choose(device: str) -> Choice:
    """What runs on a type of device ("cuda", "cpu"), and why.

    Raises ConfigError for an unknown UMT_KERNELS, MachineError where it wants Triton and Triton does not work.
    """
    wanted = wish()
    if wanted == "torch":
        return Choice(False, "UMT_KERNELS=torch")
    interpreted = is_interpreted()
    if device != "cuda" and not (wanted == "triton" and interpreted):
        return Choice(False, "Triton needs a GPU")
    problem = _why_not(interpreted)
    if problem is None:
        return Choice(True, "by its interpreter" if interpreted else "Triton works")
    if wanted == "triton":
        raise MachineError(f"UMT_KERNELS=triton, but {problem}", hint="UMT_KERNELS=auto, or install Triton again")
    return Choice(False, problem, broken=True)


@cache
def _chosen(device: str) -> Choice:
    """`choose`, once per process, and logged."""
    choice = choose(device)
    level = logging.WARNING if choice.broken else logging.INFO
    log.log(level, "kernels on %s: %s (%s)", device, "Triton" if choice.triton else "torch references", choice.why)
    return choice


def _why_not(interpreted: bool) -> str | None:
    """Why Triton does not work here; None where it does."""
    try:
        import triton

        if not interpreted:
            triton.runtime.driver.active.get_current_target()  # its first use of the driver needs a C compiler
    except Exception as error:  # whatever a broken installation raises is what the user must read
        return f"Triton does not work: {type(error).__name__}: {error}"
    return None
