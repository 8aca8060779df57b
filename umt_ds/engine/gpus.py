"""The GPUs of which we have NVIDIA's data sheet: what `umt plan` plans for, and what a run measures its MFU by.
Torch-free."""

from __future__ import annotations

import re
from dataclasses import dataclass

from umt_ds.config.deepspeed_json import Precision


@dataclass(frozen=True)
class Gpu:
    """Peak arithmetic in FLOP/s, dense (data sheets print twice as much, "with sparsity"); memory in bytes."""

    half_flops: float  # bf16 and fp16 with fp32 accumulation
    fp32_flops: float  # as torch multiplies by default, without TF32
    memory: float

    def peak(self, precision: Precision) -> float:
        return self.fp32_flops if precision == "fp32" else self.half_flops


# The words of a key are looked for in the name that the driver gives: the most that fit decide, so that a PCIe card is
# not taken for the SXM module, whose clock it does not reach.
GPUS: dict[str, Gpu] = {
    "a100": Gpu(312e12, 19.5e12, 80e9),
    "h100": Gpu(989e12, 67e12, 80e9),
    "h200": Gpu(989e12, 67e12, 141e9),
    "b200": Gpu(2250e12, 75e12, 180e9),
    "gh200": Gpu(989e12, 67e12, 96e9),
    "h100-pcie": Gpu(756e12, 51e12, 80e9),
    "h100-nvl": Gpu(835e12, 60e12, 94e9),
    "h200-nvl": Gpu(835e12, 60e12, 141e9),
    "h800": Gpu(989e12, 67e12, 80e9),
    "h800-pcie": Gpu(756e12, 51e12, 80e9),
    "h20": Gpu(148e12, 44e12, 96e9),
    "a800": Gpu(312e12, 19.5e12, 80e9),
    "a40": Gpu(149.7e12, 37.4e12, 48e9),
    "a30": Gpu(165e12, 10.3e12, 24e9),
    "a10": Gpu(125e12, 31.2e12, 24e9),
    "a10g": Gpu(70e12, 35e12, 24e9),
    "l40s": Gpu(362e12, 91.6e12, 48e9),
    "l40": Gpu(181e12, 90.5e12, 48e9),
    "l4": Gpu(121e12, 30.3e12, 24e9),
    "t4": Gpu(65e12, 8.1e12, 16e9),
}


def gpu_called(name: str) -> Gpu | None:
    """The GPU of a driver's name such as `NVIDIA H100 80GB HBM3`; None where there is no data sheet for it, as for a
    part of a GPU (MIG).

    >>> gpu_called("NVIDIA H100 PCIe") == GPUS["h100-pcie"]
    True
    """
    words = set(re.findall(r"[a-z0-9]+", name.lower()))
    if "mig" in words:
        return None
    fitting = [kind for kind in GPUS if set(kind.split("-")) <= words]
    return GPUS[max(fitting, key=len)] if fitting else None
