"""The door to flash-attn: version 2 (`flash_attn`, Ampere and later), 3 (`flash_attn_interface`, Hopper) and 4
(`flash_attn.cute`, in Python, Hopper and Blackwell). Seen: their sources of 2.8.3, of 3 and of 4.0.0b21 in 2026.

None of them is required. UMT_KERNELS=torch leaves them aside.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from umt_ds.kernels.attention.lengths import Lengths
from umt_ds.kernels.backend import wish

log = logging.getLogger("umt_ds")

Version = Literal[2, 3, 4]
# By the first number of the compute capability, the fastest first. Elsewhere torch's own is as good.
_FOR_CHIP: dict[int, tuple[Version, ...]] = {8: (2,), 9: (3, 4, 2), 10: (4,)}
_MODULES = ("flash_attn", "flash_attn_interface", "flash_attn.cute")
_WIDTHS: dict[Version, tuple[int, ...]] = {
    2: tuple(range(8, 257, 8)),
    3: tuple(range(8, 257, 8)),
    4: (64, 96, 128),
}


class Choice(NamedTuple):
    """Which version runs, None for torch's own attention; and why, in words. `broken`: one is there but fails."""

    version: Version | None
    why: str
    broken: bool = False


class Functions(NamedTuple):
    """flash_attn_func and flash_attn_varlen_func of a version."""

    fixed: Callable[..., Any]
    packed: Callable[..., Any]


def attention(query: Tensor, key: Tensor, value: Tensor, *, version: Version) -> Tensor:
    """As `umt_ds.kernels.attention.attention`, for bf16 and fp16 on a GPU."""
    return _output(functions(version).fixed(query, key, value, **_options()))


def attention_packed(query: Tensor, key: Tensor, value: Tensor, lengths: Lengths, *, version: Version) -> Tensor:
    """As `umt_ds.kernels.attention.attention_packed`, in one call."""
    offsets, longest = lengths.offsets(query.device), lengths.longest
    rows = {"cu_seqlens_q": offsets, "cu_seqlens_k": offsets, "max_seqlen_q": longest, "max_seqlen_k": longest}
    return _output(functions(version).packed(query, key, value, **rows, **_options()))


def chosen_version(device: torch.device, dtype: torch.dtype, width: int) -> Version | None:
    """`choose`, once per process and kind of tensor, and logged."""
    return _chosen(device, dtype, width).version


def choose(device: torch.device, dtype: torch.dtype, width: int) -> Choice:
    """The fastest version that is installed and takes heads of `width` of this dtype on this device."""
    if wish() == "torch":
        return Choice(None, "UMT_KERNELS=torch")
    if device.type != "cuda":
        return Choice(None, "flash-attn needs a GPU")
    if dtype not in (torch.bfloat16, torch.float16):
        return Choice(None, f"flash-attn takes no {dtype}")
    working, broken = installed(device, width)
    if working:
        return Choice(working[0], "; ".join(["the fastest here", *broken]), broken=bool(broken))
    nothing = f"no flash-attn for this GPU and heads of {width} is installed"
    return Choice(None, "; ".join(broken) or nothing, broken=bool(broken))


def installed(device: torch.device, width: int) -> tuple[list[Version], list[str]]:
    """The versions that work on this GPU for heads of `width`, the fastest first; and what is broken, in words."""
    working: list[Version] = []
    broken = []
    for version in _FOR_CHIP.get(torch.cuda.get_device_capability(device)[0], ()):
        if width not in _WIDTHS[version]:
            continue
        try:
            functions(version)
        except Exception as error:  # built for another torch, a library missing: the user must read it
            if not (isinstance(error, ModuleNotFoundError) and error.name in _MODULES):
                broken.append(f"flash-attn {version} is installed but fails: {type(error).__name__}: {error}")
        else:
            working.append(version)
    return working, broken


def functions(version: Version) -> Functions:
    """Import a version. Raises ModuleNotFoundError where it is not installed, anything where it is broken."""
    match version:
        case 2:
            import flash_attn  # version 4 alone makes this a folder without functions

            if not hasattr(flash_attn, "flash_attn_func"):
                raise ModuleNotFoundError("flash_attn holds version 4 only", name="flash_attn")
            return Functions(flash_attn.flash_attn_func, flash_attn.flash_attn_varlen_func)
        case 3:
            import flash_attn_interface

            return Functions(flash_attn_interface.flash_attn_func, flash_attn_interface.flash_attn_varlen_func)
        case 4:
            import flash_attn.cute as cute

            return Functions(cute.flash_attn_func, cute.flash_attn_varlen_func)


@cache
def _chosen(device: torch.device, dtype: torch.dtype, width: int) -> Choice:
    choice = choose(device, dtype, width)
    name = "torch's own" if choice.version is None else f"flash-attn {choice.version}"
    level = logging.WARNING if choice.broken else logging.INFO
    log.log(level, "attention on %s, %s, heads of %d: %s (%s)", device.type, dtype, width, name, choice.why)
    return choice


def _options() -> dict[str, bool]:
    """Their backward pass adds in any order unless told otherwise."""
    return {"deterministic": True} if torch.are_deterministic_algorithms_enabled() else {}


def _output(returned: Any) -> Tensor:
    """Version 4, and early builds of 3, return (output, logsumexp)."""
    out: Tensor = returned[0] if isinstance(returned, tuple) else returned
    return out
