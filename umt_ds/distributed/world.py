"""Who am I among how many: torchrun, the deepspeed launcher, Slurm's srun, or alone."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from umt_ds.errors import MachineError

Launcher = Literal["env", "slurm", "alone"]
EXPECTED_WORLD = "UMT_EXPECTED_WORLD"  # how many ranks umt-launch planned the job for


@dataclass(frozen=True)
class World:
    """This process's place. `launcher` says who told: `env` is torchrun, deepspeed, or `umt train --ranks`."""

    rank: int
    size: int
    local_rank: int
    master_addr: str
    master_port: int
    launcher: Launcher

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def find_world(env: Mapping[str, str] | None = None) -> World:
    """Read the place of this process from its environment.

    Raises MachineError where the environment contradicts itself, instead of starting separate trainings.
    """
    env = os.environ if env is None else env
    if "RANK" in env or "WORLD_SIZE" in env:
        world = _from_launcher(env)
    elif int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1 or ("SLURM_STEP_ID" in env and "SLURM_PROCID" in env):
        world = _from_slurm(env)
    else:
        world = World(0, 1, 0, "127.0.0.1", free_port(), "alone")
    expected = int(env.get(EXPECTED_WORLD, world.size))
    if world.size != expected:
        raise MachineError(
            f"this job was planned for {expected} ranks ({EXPECTED_WORLD}), but this process sees {world.size}: "
            "it would train apart from the others",
            hint="start the ranks as the file of umt-launch does, or submit again with umt-launch",
        )
    return world


def _from_launcher(env: Mapping[str, str]) -> World:
    missing = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in env]
    if missing:
        raise MachineError(
            f"the launcher set some rank variables but not {', '.join(missing)}",
            hint="start with `umt train`, torchrun, the deepspeed launcher or srun; or unset RANK and WORLD_SIZE",
        )
    world = World(
        int(env["RANK"]), int(env["WORLD_SIZE"]), int(env["LOCAL_RANK"]),
        env["MASTER_ADDR"], int(env["MASTER_PORT"]), "env",
    )  # fmt: skip
    if not 0 <= world.rank < world.size:
        raise MachineError(f"RANK={world.rank} is outside WORLD_SIZE={world.size}", hint="check the launcher's command")
    tasks = int(env.get("SLURM_STEP_NUM_TASKS", "1"))
    # nodes that the launcher knows of: torchrun and deepspeed each have a name for it, others do not say
    nodes = int(env.get("GROUP_WORLD_SIZE") or env.get("CROSS_SIZE") or min(tasks, world.size))
    if tasks > 1 and nodes != tasks:
        raise MachineError(
            f"srun started {tasks} tasks, but the launcher in each of them knows of {nodes}: "
            f"{tasks // nodes} separate trainings of {world.size} rank(s)",
            hint="unset RANK and WORLD_SIZE in the batch script (srun alone gives the ranks), "
            "or start one torchrun per node that is told of all nodes (--nnodes, --node-rank, --master-addr)",
        )
    return world


def _from_slurm(env: Mapping[str, str]) -> World:
    """One srun task per device. The master is the first node of the step, the port follows the job id."""
    job = int(env.get("SLURM_JOB_ID", "0"))
    nodes = env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", "127.0.0.1"))
    return World(
        rank=int(env["SLURM_PROCID"]),
        size=int(env["SLURM_STEP_NUM_TASKS"]),
        local_rank=int(env.get("SLURM_LOCALID", "0")),
        master_addr=env.get("MASTER_ADDR") or _address_of(first_host(nodes)),
        master_port=int(env.get("MASTER_PORT", 20000 + job % 10000)),
        launcher="slurm",
    )


def _address_of(node: str) -> str:
    """Where a Slurm node can be reached: by its name, or where DNS does not know it, by what Slurm says."""
    try:
        socket.getaddrinfo(node, None)
        return node
    except OSError:
        pass
    try:
        command = ["scontrol", "show", "node", "--oneliner", node]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        said = ""
    found = re.search(r"\bNodeAddr=(\S+)", said)
    if found is None:
        raise MachineError(f"the Slurm node {node!r} has no address that can be found", hint="set MASTER_ADDR")
    return found[1]


def first_host(nodelist: str) -> str:
    """First host of a Slurm node list: `gpu[003-007,9],x1` → `gpu003`, `rack[1-2]n[3-4]` → `rack1n3`."""
    match = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodelist)  # up to the first comma outside brackets
    if match is None:
        raise MachineError(f"cannot read the Slurm node list {nodelist!r}", hint="set MASTER_ADDR")
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", match[0])


def free_port() -> int:
    """A TCP port that is free on this machine now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
