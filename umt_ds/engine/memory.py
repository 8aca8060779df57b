"""Memory that DeepSpeed needs on each device for weights, gradients, optimiser and buffers, by ZeRO stage.

Read from DeepSpeed 0.19.8, whose defaults matter at our sizes: a bucket of 5e8 elements (1 GB in bf16) is reserved at
stages 1 to 3 however small the model, and stage 3 keeps up to 1e9 gathered weights alive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from umt_ds.config.deepspeed_json import Precision

_BUCKET = 500_000_000  # elements: zero_optimization.reduce_bucket_size
_MAX_LIVE = 1_000_000_000  # parameters: zero_optimization.stage3_max_live_parameters
ELEMENT = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of a weight or activation in each precision."""


@dataclass(frozen=True)
class StateBytes:
    """On one device. optimizer: AdamW's two moments, the average of the weights where one is kept and, unless it steps
    the model's own fp32 weights, an fp32 copy of them."""

    weights: int
    gradients: int
    optimizer: int
    buffers: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.buffers


def state_bytes(
    parameters: int,
    *,
    stage: int,
    world: int,
    precision: Precision,
    settings: dict[str, Any],
    averaged: bool = False,
) -> StateBytes:
    """Of a model with `parameters` trained ones at a ZeRO stage; `settings` is the DeepSpeed JSON. averaged: with a
    moving average of the weights.

    What is offloaded to the CPU is not counted.
    """
    zero = settings.get("zero_optimization", {})
    element = ELEMENT[precision]
    shards = world if stage >= 1 else 1
    weights, gradients = parameters * element, parameters * element
    if stage == 3:
        gathered = min(parameters, int(zero.get("stage3_max_live_parameters", _MAX_LIVE))) * element
        weights = gathered + (0 if _offloads(zero, "offload_param") else weights // shards)
    if stage >= 2:
        gradients //= shards
    of_each = (8 if stage == 0 and precision == "fp32" else 12) + (4 if averaged else 0)
    optimizer = parameters * of_each // shards
    if stage >= 1 and _offloads(zero, "offload_optimizer"):
        optimizer = 0
    doubled = stage in (1, 2) and zero.get("overlap_comm", False)
    bucket = int(zero.get("reduce_bucket_size", _BUCKET)) * element * (2 if doubled else 1)
    return StateBytes(weights, gradients, optimizer, buffers=bucket if stage >= 1 else 0)


def _offloads(zero: dict[str, Any], what: str) -> bool:
    return str(zero.get(what, {}).get("device", "none")) != "none"
