"""The one way into and out of a process group."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from umt_ds.distributed.collectives import barrier
from umt_ds.distributed.device import device_of
from umt_ds.distributed.world import World, find_world
from umt_ds.environment import Environment
from umt_ds.errors import MachineError

log = logging.getLogger("umt_ds")
START_TIMEOUT = timedelta(minutes=10)
# A rank may wait ten minutes for a store (`data.shards.back_off`) while the others wait for it. torch's own limit, ten
# minutes with NCCL, would end them with an exit code that nobody restarts; what hangs, the watchdog ends before that
_COLLECTIVE_TIMEOUT = timedelta(minutes=30)
_LEAVING_S = 5.0  # at most, after an error


@dataclass(frozen=True)
class Job:
    """A started process group, and the device of this rank."""

    world: World
    device: torch.device


@contextmanager
def start_job(*, patience: timedelta = START_TIMEOUT) -> Iterator[Job]:
    """Join the process group (NCCL on GPUs, gloo on CPUs; also alone, so that there is one code path).

    A group that is open already (a notebook, several runs in one process) is used and left open: DeepSpeed
    cannot follow into a second one. On a clean exit all ranks meet at a barrier and collect garbage before the
    group is destroyed: DeepSpeed engines that outlive the group abort the interpreter in one run of five. After an
    error no rank waits for the others: what NCCL has under way is broken off. patience: for the others to come.
    """
    world = find_world()
    device = device_of(world)
    if dist.is_initialized():
        yield Job(world, device)
        gc.collect()
        barrier()
        return
    on_cuda = device.type == "cuda"
    Environment().check_interfaces("NCCL_SOCKET_IFNAME" if on_cuda else "GLOO_SOCKET_IFNAME", by_beginning=on_cuda)
    os.environ.update(
        RANK=str(world.rank), WORLD_SIZE=str(world.size),
        # DeepSpeed takes it for the number of the device, which it is not where each rank sees one GPU alone
        LOCAL_RANK=str(device.index if on_cuda else world.local_rank),
        MASTER_ADDR=world.master_addr, MASTER_PORT=str(world.master_port),
    )  # fmt: skip
    try:
        # device_id: else torch guesses the device of a barrier from the rank (and warns), and NCCL connects late
        dist.init_process_group("nccl" if on_cuda else "gloo", timeout=patience, device_id=device if on_cuda else None)
    except (RuntimeError, ValueError) as error:
        raise MachineError(
            f"rank {world.rank} of {world.size} could not join the group at "
            f"{world.master_addr}:{world.master_port}: {error}",
            hint=_how_to_meet(world, error),
        ) from error
    allow_long_waits()
    try:
        yield Job(world, device)
        gc.collect()
        barrier()
    except BaseException:
        _break_off(device)
        raise
    gc.collect()
    dist.destroy_process_group()


def allow_long_waits() -> None:
    """Give every group that there is now, DeepSpeed's too, the time of `_COLLECTIVE_TIMEOUT` for each collective."""
    set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout  # torch ≥ 2.14, before
    for group in list(dist.distributed_c10d._world.pg_map):  # private: torch has no list of its groups
        set_timeout(_COLLECTIVE_TIMEOUT, group)


def _break_off(device: torch.device) -> None:
    """Leave the group without waiting for anybody: NCCL would wait for collectives that others do not join, and what is
    broken may not even break off."""
    gc.collect()
    # torch ≥ 2.6 has no public name for breaking off
    leave = dist.distributed_c10d._abort_process_group if device.type == "cuda" else dist.destroy_process_group
    leaving = threading.Thread(target=leave, name="leave the group", daemon=True)
    leaving.start()
    leaving.join(_LEAVING_S)


def _how_to_meet(world: World, error: Exception) -> str:
    if "EADDRINUSE" in str(error):
        return (
            f"another program has port {world.master_port}, perhaps another run. Name a free one on all ranks: export "
            "MASTER_PORT=… (torchrun, deepspeed: --master_port); umt-launch and --ranks take another when started again"
        )
    return "are all ranks running, and can they reach that address?"
