"""What `keep_tokens` computes, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from umt_ds.kernels.philox import Purpose, uniform

# Below the logarithm of any float32 and beyond the reach of the noise: such patches come last.
LOG_OF_ZERO = -1000.0


def keep_tokens(attention: Tensor, *, seed: int, step: int, slots: Tensor, visible: int) -> Tensor:
    """Keyed noise for each patch, then `keep_highest`."""
    frames, patches = attention.shape[1:]
    noise = uniform(seed, step, slots, frames * patches, Purpose.MASK).view_as(attention)
    return keep_highest(attention, noise=noise, visible=visible)


def keep_highest(attention: Tensor, *, noise: Tensor, visible: int) -> Tensor:
    """The `visible` highest keys log(attention) - log(-log(noise)) of each frame: i64 [B,T·visible], ascending.

    noise: uniform f32 [B,T,S] in (0,1). Gumbel top-k: taking the highest keys is drawing one patch after the
    other (Plackett-Luce), which the authors do by multinomial (METHOD.md, "Masking"). Ties go to the lower index.
    """
    frames, patches = attention.shape[1:]
    weight = attention.float()
    log_weight = torch.where(weight > 0, weight.log(), LOG_OF_ZERO)  # NaN > 0 is False
    gumbel = -torch.log(-torch.log(noise))
    kept = first_sorted(log_weight + gumbel, visible)  # [B,T,v]
    offset = patches * torch.arange(frames, device=kept.device)[:, None]
    return (kept + offset).flatten(1)


def first_sorted(score: Tensor, count: int) -> Tensor:
    """The indices of the `count` highest scores over the last axis, ascending.

    Stable: ties go to the lower index on every device, which topk does not promise.
    """
    ranking = score.argsort(dim=-1, descending=True, stable=True)
    return ranking[..., :count].sort(dim=-1).values
