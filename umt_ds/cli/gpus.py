"""The GPUs that `umt plan` knows, from NVIDIA's data sheets (SXM). Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from umt_ds.config.deepspeed_json import Precision

GpuKind = Literal["a100", "h100", "h200"]


@dataclass(frozen=True)
class Gpu:
    """Peak arithmetic in FLOP/s, dense; memory in bytes."""

    half_flops: float  # bf16 and fp16
    fp32_flops: float  # as torch multiplies by default, without TF32
    memory: float

    def peak(self, precision: Precision) -> float:
        return self.fp32_flops if precision == "fp32" else self.half_flops


GPUS: dict[GpuKind, Gpu] = {
    "a100": Gpu(312e12, 19.5e12, 80e9),
    "h100": Gpu(989e12, 67e12, 80e9),
    "h200": Gpu(989e12, 67e12, 141e9),
}
