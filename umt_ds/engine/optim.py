"""AdamW and its parameter groups."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from umt_ds.config.optimisation import OptimConfig


def decay_groups(module: nn.Module, weight_decay: float, *, also: Collection[str] = ()) -> list[dict[str, Any]]:
    """Two AdamW groups: matrices decay; every tensor of one dimension (biases, norms, q_bias, v_bias) does not.

    also: names of parameters that decay although they have one dimension.
    Source: METHOD.md, "Optimisation: stage 1" (B/16 with decoders: 55 tensors decayed, 129 not).
    """
    parameters = [(p.ndim > 1 or name in also, p) for name, p in module.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for decays, p in parameters if decays], "weight_decay": weight_decay, "lr_scale": 1.0},
        {"params": [p for decays, p in parameters if not decays], "weight_decay": 0.0, "lr_scale": 1.0},
    ]
    return [group for group in groups if group["params"]]


def layer_decay_groups(module: nn.Module, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """As `decay_groups`, and each layer learns at `layer_decay` times the rate of the layer after it (`lr_scale`).

    The module's `group_matcher` says which layer a parameter belongs to; the last layer has lr_scale 1.
    Source: METHOD.md, "Optimisation: recognition".
    """
    from timm.optim import param_groups_layer_decay  # seconds: only for runs that decay layers

    assert hasattr(module, "group_matcher"), "without it timm would decay no layer, and only warn (1.0.31)"
    groups: list[dict[str, Any]] = param_groups_layer_decay(module, weight_decay, layer_decay=layer_decay)
    return groups


def build_adamw(groups: list[dict[str, Any]], optim: OptimConfig) -> torch.optim.AdamW:
    """torch's fused AdamW: compiles nothing at start. The learning rate is written before each step."""
    return torch.optim.AdamW(groups, lr=0.0, betas=optim.betas, eps=optim.eps, fused=True)
