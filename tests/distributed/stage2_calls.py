"""What the ranks of test_stage2_ranks.py do: gradients of the tiny model, averaged over the ranks as DeepSpeed does."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from tests.support.stage2 import gradients, inputs_of, tiny_module, tiny_rows
from umt_ds.batch import Media
from umt_ds.distributed.collectives import mean_over_ranks

TEXTS = [0, 1, 1, 3, 4, 5, 6, 6]  # some captions twice, also on different ranks


def objective(medium: Media, settings: dict[str, Any], parts: list[str]) -> dict[str, Any]:
    """Of this rank's share of eight rows, with only `parts` of the objective: the mean loss, the gradients."""
    rank, world = dist.get_rank(), dist.get_world_size()
    weights = {name: float(name in parts) for name in ("vtc", "vtm", "mlm", "uta")}
    module = tiny_module(loss_weights=weights, **settings)
    each = 8 // world
    slots = range(rank * each, (rank + 1) * each)
    rows = tiny_rows(medium, slots, texts=[TEXTS[s] for s in slots], mlm="mlm" in parts, uta="uta" in parts)
    losses = module(inputs_of(rows))
    losses.total.backward()
    averaged = {name: mean_over_ranks(gradient) for name, gradient in gradients(module).items()}
    return {
        "loss": float(mean_over_ranks(losses.total.detach())),
        "own": float(losses.total.detach()),
        "gradients": {name: gradient.flatten().tolist() for name, gradient in averaged.items()},
        "threads": torch.get_num_threads(),
    }
