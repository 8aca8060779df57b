"""Gradient norm, clipping and the check for NaN and infinity, without a wait of the host for the device.

torch's fused AdamW reads two device scalars that were made for loss scaling. Where `found_inf` is 1 it changes nothing:
no weight, no moment, no step count. It divides each gradient by `grad_scale`. The clipper writes both from the norm, so
that the kernel which updates the weights also skips a step with a NaN, and clips a gradient of norm 3 to norm 1
(`grad_scale` 3).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_EPS = 1e-6  # as torch's and DeepSpeed's clipping


class GradientClipper:
    """Before each step of a fused AdamW: whether it is skipped, and by what the gradient is divided."""

    def __init__(self, adamw: torch.optim.Optimizer, *, clip_grad: float | None, device: torch.device) -> None:
        self._adamw: Any = adamw
        self._clip_grad = clip_grad
        self.norm = torch.zeros((), device=device)  # f32, before clipping; may be inf or NaN
        self.skip_step = torch.zeros((), device=device)  # f32: 1 where the norm is not finite, else 0

    def set(self, norm: Tensor) -> None:
        """Take the norm of the whole gradient, the same on all ranks. Call it before AdamW steps."""
        self.norm = norm
        self.skip_step = (~torch.isfinite(norm)).float()
        self._adamw.found_inf = self.skip_step
        if self._clip_grad is not None:
            self._adamw.grad_scale = ((norm + _EPS) / self._clip_grad).clamp(min=1.0)

    def patch_zero_optimizer(self, zero: Any) -> None:
        """Replace the norm, clipping and overflow check of DeepSpeed's optimizer for ZeRO stages 1 and 2 (0.19.8).

        Its own step makes the host wait three times for the norm. After the patch, `scaled_global_norm` gives the norm
        to this clipper and returns the constant 1.0, which DeepSpeed's step compares and logs without a wait.
        """

        def set_norm(norm_type: float = 2) -> float:
            self.set(_partitioned_norm(zero))
            return 1.0

        zero.check_grad_overflow = False
        zero.scaled_global_norm = set_norm
        zero.unscale_and_clip_grads = lambda *_: None  # bf16 and fp32 have no loss scale, and AdamW clips (grad_scale)


def total_norm(gradients: list[Tensor], device: torch.device) -> Tensor:
    """The L2 norm of all the given gradients together: f32 scalar, accumulated in fp32."""
    if not gradients:
        return torch.zeros((), device=device)
    return torch.stack(torch._foreach_norm(gradients, 2.0, torch.float32)).square().sum().sqrt()


def _partitioned_norm(zero: Any) -> Tensor:
    """The L2 norm of a gradient of which each rank holds a part: the same on all ranks."""
    parts = [
        gradient.detach()
        for group in zero.averaged_gradients.values()
        for gradient in group
        if not getattr(gradient, "_zero_padding", False)
    ]
    squared = total_norm(parts, zero.device).square()
    dist.all_reduce(squared, group=zero.dp_process_group)
    return squared.sqrt()
