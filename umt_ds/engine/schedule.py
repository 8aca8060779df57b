"""The learning rate as a pure function of the step.

Four curves, S steps of which W warm up and, of wsd, the last D decay; s = 0 … S-1, p = (s - W) / (S - W):

    cosine_offset   s < W: w + (lr - w) · s / (W - 1)   else  min_lr + (lr - min_lr) · ½(1 + cos πp)
    cosine_floor    s < W: max(min_lr, lr · s / W)      else  max(min_lr, lr · ½(1 + cos πp))
    constant        s < W: w + (lr - w) · s / (W - 1)   else  lr
    wsd             as constant; s ≥ S - D:                   min_lr + (lr - min_lr) · (S - s) / D

The first is stage 1's with w = 0 and fine-tuning's with w = warmup_lr (an array that holds both ends of its warm-up),
the second that of everything the authors call multi_modality, with min_lr = lr / 100. wsd (warm-up, stable, decay) is
that of MiniCPM (arXiv 2404.06395, section 4) with the straight line of arXiv 2405.18392: before the decay, no rate
depends on S, so that a run can be made longer, or several can decay from one. D = S is a cooldown from start to end.
"""

from __future__ import annotations

import math
from typing import assert_never

from umt_ds.config.batching import RunPlan


def lr_at(step: int, plan: RunPlan) -> float:
    """Learning rate of 0-based optimiser step `step`; after the last step it stays where it came to."""
    peak, low, warmup = plan.peak_lr, plan.min_lr, plan.warmup_steps
    match plan.lr_curve:
        case "cosine_floor":
            return max(low, peak * (step / warmup if step < warmup else _cosine(step, plan)))
        case _ if step < warmup:
            return plan.warmup_lr + (peak - plan.warmup_lr) * step / max(1, warmup - 1)
        case "cosine_offset":
            return low + (peak - low) * _cosine(step, plan)
        case "wsd":
            left = max(0, plan.total_steps - step)  # a step before the decay has more than all of it left
            return peak if left >= plan.decay_steps else low + (peak - low) * left / plan.decay_steps
        case "constant":
            return peak
        case _:
            assert_never(plan.lr_curve)


def _cosine(step: int, plan: RunPlan) -> float:
    """From 1 after the warm-up to 0 after the last step."""
    progress = min(1.0, (step - plan.warmup_steps) / (plan.total_steps - plan.warmup_steps))
    return 0.5 * (1 + math.cos(math.pi * progress))
