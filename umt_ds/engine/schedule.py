"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from umt_ds.config.batching import RunPlan


def lr_at(step: int, plan: RunPlan) -> float:
    """Learning rate of 0-based optimiser step `step`.

    Linear from 0 to the peak over the warm-up (both ends reached), then half a cosine to the minimum.
    Source: SPEC 5; the published code precomputes the same numbers as an array.
    """
    if step < plan.warmup_steps:
        return plan.peak_lr * step / max(1, plan.warmup_steps - 1)
    fraction = (step - plan.warmup_steps) / (plan.total_steps - plan.warmup_steps)
    return plan.min_lr + 0.5 * (plan.peak_lr - plan.min_lr) * (1 + math.cos(math.pi * min(1.0, fraction)))
