"""The learning rate as a pure function of the step.

Two curves, S steps of which W warm up, s = 0 … S-1, p = (s - W) / (S - W):

    cosine_offset   s < W: w + (lr - w) · s / (W - 1)   else  min_lr + (lr - min_lr) · ½(1 + cos πp)
    cosine_floor    s < W: max(min_lr, lr · s / W)      else  max(min_lr, lr · ½(1 + cos πp))

The first is stage 1's with w = 0 and fine-tuning's with w = warmup_lr (an array that holds both ends of its warm-up),
the second that of everything the authors call multi_modality, with min_lr = lr / 100.
"""

from __future__ import annotations

import math
from typing import assert_never

from umt_ds.config.batching import RunPlan


def lr_at(step: int, plan: RunPlan) -> float:
    """Learning rate of 0-based optimiser step `step`; after the last step it stays at the minimum."""
    peak, low, warmup = plan.peak_lr, plan.min_lr, plan.warmup_steps
    progress = min(1.0, (step - warmup) / (plan.total_steps - warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    match plan.lr_curve:
        case "cosine_offset":
            start = plan.warmup_lr
            warming = start + (peak - start) * step / max(1, warmup - 1)
            return warming if step < warmup else low + (peak - low) * cosine
        case "cosine_floor":
            return max(low, peak * (step / warmup if step < warmup else cosine))
        case _:
            assert_never(plan.lr_curve)
