"""The device that somebody names."""

from __future__ import annotations

import torch

from umt_ds.distributed.device import device_of
from umt_ds.distributed.world import World
from umt_ds.errors import ConfigError, MachineError


def device_called(name: str | torch.device | None) -> torch.device:
    """`cpu`, `cuda`, `cuda:1`; None: the first GPU that torch sees, else the CPU. Raises ConfigError for what is no
    device, MachineError for one that is not there."""
    if name is None:
        return device_of(World.alone())
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {str(name)!r} is none that torch knows", hint="cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MachineError(f"there is no {device}: torch sees {torch.cuda.device_count()} GPUs", hint="device='cpu'")
    return device
