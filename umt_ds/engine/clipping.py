"""Norm, clipping and the finite check of a gradient, all on the device: nobody waits for the answer.

torch's fused AdamW reads two device scalars, made for loss scaling: `found_inf` (1: leave weights, moments and step
count alone) and `grad_scale` (divide the gradient by it). The gate writes them, so that a NaN is kept out and a long
gradient is shortened in the same kernel that steps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_EPS = 1e-6  # as torch's and DeepSpeed's clipping


class GradientClipper:
    """Decides for each step of a fused AdamW whether and how scaled the gradient comes through."""

    def __init__(self, adamw: torch.optim.Optimizer, *, clip_grad: float | None, device: torch.device) -> None:
        self._adamw: Any = adamw
        self._clip_grad = clip_grad
        self.norm = torch.zeros((), device=device)  # f32, before clipping; inf or NaN where it was not finite
        self.skip_step = torch.zeros((), device=device)  # f32, 1 where the step changes nothing

    def set(self, norm: Tensor) -> None:
        """Say the norm of the whole gradient, the same on all ranks, before AdamW steps."""
        self.norm = norm
        self.skip_step = (~torch.isfinite(norm)).float()
        self._adamw.found_inf = self.skip_step
        if self._clip_grad is not None:
            self._adamw.grad_scale = ((norm + _EPS) / self._clip_grad).clamp(min=1.0)

    def patch_zero_optimizer(self, zero: Any) -> None:
        """Take over norm, clipping and finite check of DeepSpeed's optimizer of ZeRO stages 1 and 2 (0.19.8).

        Its own step asks the host three times whether the norm is a number. It is told 1.0 instead of a tensor.
        """

        def set_norm(norm_type: float = 2) -> float:
            self.set(_partitioned_norm(zero))
            return 1.0

        zero.check_grad_overflow = False
        zero.scaled_global_norm = set_norm
        zero.unscale_and_clip_grads = lambda *_: None  # bf16 and fp32 have no loss scale; the gate clips


def total_norm(gradients: list[Tensor], device: torch.device) -> Tensor:
    """The norm of all gradients of this rank taken together: f32 scalar, accumulated in fp32."""
    if not gradients:
        return torch.zeros((), device=device)
    return torch.stack(torch._foreach_norm(gradients, 2.0, torch.float32)).square().sum().sqrt()


def _partitioned_norm(zero: Any) -> Tensor:
    """The norm of a gradient of which each rank holds a part."""
    parts = [
        gradient.detach()
        for group in zero.averaged_gradients.values()
        for gradient in group
        if not getattr(gradient, "_zero_padding", False)
    ]
    squared = total_norm(parts, zero.device).square()
    dist.all_reduce(squared, group=zero.dp_process_group)
    return squared.sqrt()
