"""Who am I among how many: torchrun, the deepspeed launcher, Slurm's srun, or alone."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from umt_ds.environment import EXPECTED_WORLD, RANK_VARIABLES, Environment, is_host
from umt_ds.errors import MachineError

Launcher = Literal["env", "slurm", "alone"]
_THIS_MACHINE = "127.0.0.1"
_WHICH_RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_COUNTS_OF_MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")  # how many processes mpirun started


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

    @classmethod
    def alone(cls, master_port: int = 0) -> World:
        """The only rank. A process group wants a free port; nothing else asks for one."""
        return cls(0, 1, 0, _THIS_MACHINE, master_port, "alone")


def find_world(variables: Mapping[str, str] | None = None) -> World:
    """Read the place of this process from its environment, or from the variables given.

    Raises ConfigError for a variable that cannot be read, and MachineError where the environment contradicts itself,
    instead of starting separate trainings.
    """
    env = Environment(variables)
    if _says_ranks(env):
        world = _from_launcher(env)
    elif _num_tasks(env) > 1 or (env.text("SLURM_STEP_ID") and env.text("SLURM_PROCID")):
        world = _from_slurm(env)
    else:
        world = World.alone(free_port())
    _check_not_apart(env, world)
    expected = env.number(EXPECTED_WORLD, world.size, least=1)
    if world.size != expected:
        raise MachineError(
            f"this job was planned for {expected} ranks ({EXPECTED_WORLD}), but this process sees {world.size}: "
            "it would train apart from the others",
            hint="start the ranks as the file of umt-launch does, or submit again with umt-launch",
        )
    return world


def sign_of_launcher(variables: Mapping[str, str] | None = None) -> str | None:
    """`NAME=value` of a variable by which a launcher says that this process is one of its ranks; None without one.

    Raises ConfigError for a variable that cannot be read.
    """
    env = Environment(variables)
    for name in _WHICH_RANK:
        if env.text(name) is not None:
            return f"{name}={env.text(name)}"
    counts = {name: env.number(name, 1, least=1) for name in ("SLURM_STEP_NUM_TASKS", *_COUNTS_OF_MPI)}
    return next((f"{name}={count}" for name, count in counts.items() if count > 1), None)


def _says_ranks(env: Environment) -> bool:
    return any(env.text(name) for name in _WHICH_RANK)


def _num_tasks(env: Environment) -> int:
    """Tasks of the Slurm step that this process is in; 1 outside of any."""
    return env.number("SLURM_STEP_NUM_TASKS", 1, least=1)


def _from_launcher(env: Environment) -> World:
    _require(env, RANK_VARIABLES, who="the launcher")
    size, port = env.number("WORLD_SIZE", 1, least=1), env.port("MASTER_PORT", 0)
    addr = env.host("MASTER_ADDR") or _THIS_MACHINE
    if size == 1 and not env.yes("TORCHELASTIC_USE_AGENT_STORE"):  # torchrun itself waits for its rank there
        addr, port = _THIS_MACHINE, free_port()  # a rank that meets nobody needs no port that another run may have
    world = World(env.number("RANK", 0), size, env.number("LOCAL_RANK", 0), addr, port, "env")
    _check_ranks(world, "RANK", "LOCAL_RANK", "WORLD_SIZE")
    tasks = _num_tasks(env)
    # nodes that the launcher knows of: torchrun and deepspeed each have a name for it, others do not say
    nodes = env.number("GROUP_WORLD_SIZE", env.number("CROSS_SIZE", min(tasks, size), least=1), least=1)
    if tasks > 1 and nodes != tasks:
        raise MachineError(
            f"srun started {tasks} tasks, but the launcher in each of them knows of {nodes}: "
            f"{tasks // nodes} separate trainings of {world.size} rank(s)",
            hint="unset RANK and WORLD_SIZE in the batch script (srun alone gives the ranks), "
            "or start one torchrun per node that is told of all nodes (--nnodes, --node-rank, --master-addr)",
        )
    return world


def _from_slurm(env: Environment) -> World:
    """One srun task per device. The master is the first node of the step, the port follows from job and step."""
    size, told_addr = _num_tasks(env), env.host("MASTER_ADDR")
    job, step = env.number("SLURM_JOB_ID", 0, least=0), env.number("SLURM_STEP_ID", 0, least=0)
    port = env.port("MASTER_PORT", 20000 + (job + 1009 * step) % 10000)
    if size == 1:
        addr, port = _THIS_MACHINE, free_port()  # a rank that meets nobody needs no port that another run may have
    else:
        _require(env, ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID"), who="Slurm")
        addr = told_addr or _address_of(first_host(env.text("SLURM_STEP_NODELIST") or env.text("SLURM_NODELIST") or ""))
    world = World(env.number("SLURM_PROCID", 0), size, env.number("SLURM_LOCALID", 0), addr, port, "slurm")
    _check_ranks(world, "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS")
    return world


def _check_not_apart(env: Environment, world: World) -> None:
    """Raises MachineError where MPI started several processes that would each train alone in the same run folder."""
    for name in _COUNTS_OF_MPI:
        if world.size == 1 and (started := env.number(name, 1, least=1)) > 1:
            raise MachineError(
                f"MPI started {started} processes ({name}) but told them no ranks: {started} separate trainings",
                hint=f"start them with torchrun or srun, or export {', '.join(RANK_VARIABLES)}",
            )


def _require(env: Environment, names: Sequence[str], *, who: str) -> None:
    """Raises MachineError where `who` set some of the variables that it always sets, but not all."""
    missing = [name for name in names if env.text(name) is None]
    if missing:
        raise MachineError(
            f"{who} set some rank variables but not {', '.join(missing)}",
            hint="start with `umt train`, torchrun, the deepspeed launcher or srun; "
            f"or unset {' '.join(name for name in names if name not in missing)}",
        )


def _check_ranks(world: World, rank: str, local_rank: str, size: str) -> None:
    """Raises MachineError naming the variables where a rank is not one of the world's."""
    for name, value in ((rank, world.rank), (local_rank, world.local_rank)):
        if not 0 <= value < world.size:
            raise MachineError(f"{name}={value} is outside {size}={world.size}", hint="check the launcher's command")


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
        raise MachineError(f"the Slurm node {node!r} has no address that can be found", hint="export MASTER_ADDR=…")
    return found[1]


def first_host(nodelist: str) -> str:
    """First host of a Slurm node list: `gpu[003-007,9],x1` → `gpu003`, `rack[1-2]n[3-4]` → `rack1n3`.

    Raises MachineError for what is no such list."""
    match = re.match(r"((?:[^,\[\]]|\[[0-9,-]+\])+)(?:,|\Z)", nodelist)  # up to the first comma outside brackets
    host = "" if match is None else re.sub(r"\[([0-9]+)[^\]]*\]", r"\1", match[1])
    if not is_host(host):
        raise MachineError(
            f"cannot read the Slurm node list {nodelist!r:.100} (SLURM_STEP_NODELIST, SLURM_NODELIST)",
            hint="export MASTER_ADDR=… with the first node",
        )
    return host


def free_port() -> int:
    """A TCP port that is free on this machine now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
