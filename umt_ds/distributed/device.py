"""The device of a rank, and why it may not be the one that was expected."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from umt_ds.distributed.world import World
from umt_ds.environment import Environment
from umt_ds.errors import MachineError

_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def device_of(world: World) -> torch.device:
    """This rank's GPU, made current; the CPU where torch sees none. Raises MachineError for a rank without a GPU among
    others with one, and for a GPU that this torch has no code for."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    # one visible device per task is how Slurm's --gpus-per-task binds them
    index = world.local_rank if count > 1 else 0
    if index >= count:
        raise MachineError(
            f"local rank {world.local_rank} has no GPU: {count} are visible", hint="start one process per GPU"
        )
    capability, built_for = torch.cuda.get_device_capability(index), torch.cuda.get_arch_list()
    if not has_code(capability, built_for):
        raise MachineError(
            f"this torch ({torch.__version__}) has no code for {torch.cuda.get_device_name(index)} "
            f"(sm_{capability[0]}{capability[1]}): it is built for {', '.join(built_for)}",
            hint="install a torch built for this GPU (of an older CUDA, for an older GPU)",
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def has_code(capability: tuple[int, int], built_for: Sequence[str]) -> bool:
    """Whether a torch that was built for chips such as sm_80, or compute_90, runs on a chip: machine code serves later
    ones of its generation, what is compiled at the start (compute_…) all later ones."""
    for target in built_for:
        kind, _, digits = target.partition("_")
        number = int(re.sub(r"\D", "", digits))
        major, minor = divmod(number, 10)
        if capability >= (major, minor) and (kind == "compute" or capability[0] == major):
            return True
    return False


def why_no_gpu() -> str | None:
    """Why torch uses no GPU on a machine that has NVIDIA's driver; None where it uses one, or there is no driver."""
    if torch.cuda.is_available() or not _NVIDIA_DRIVER.exists():
        return None
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built for CPUs"
    visible = Environment().raw("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES={visible!r} shows it none"
    return f"the driver gives torch none: see `nvidia-smi`; it may be older than CUDA {torch.version.cuda} needs"
