"""The files of a training job: one sbatch file, and what starts the ranks of a node."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launchers.slurm import check_no_white_space, fill
from umt_ds.config.cluster import ClusterConfig

Launcher = Literal["srun", "torchrun", "deepspeed"]


@dataclass(frozen=True)
class TrainJob:
    """What is asked of Slurm for one run; RUN/launch/config.yaml is what it runs."""

    name: str
    run: Path  # absolute run folder
    folder: Path  # absolute; relative paths of the configuration start here
    nodes: int
    ranks_per_node: int
    cluster: ClusterConfig
    launcher: Launcher = "srun"
    grace_s: int = 600  # seconds between USR1 and the time limit
    stop_at: int | None = None
    words: Sequence[str] = ()  # options of umt train

    @property
    def world(self) -> int:
        return self.nodes * self.ranks_per_node


def render(job: TrainJob) -> dict[str, str]:
    """Text by file name, all for RUN/launch; train.sbatch is the one to submit."""
    for folder in (job.run, job.folder):
        check_no_white_space(folder)
    launch, cluster = job.run / "launch", job.cluster
    python = "python" if cluster.container else sys.executable
    rank = ["bash", f"{launch}/rank.sh", python, "-m", "umt_ds", "train", f"{launch}/config.yaml", *job.words]
    files = {"rank.sh": (Path(__file__).resolve().parent / "rank.sh").read_text()}
    tasks = job.ranks_per_node  # srun makes each rank, or one launcher a node, which makes the ranks
    if job.launcher != "srun":
        files["node.sh"] = fill(
            f"{job.launcher}_node.sh",
            run=job.run,
            python=shlex.quote(python),
            ranks_per_node=job.ranks_per_node,
            command=shlex.join(rank),
        )
        rank, tasks = ["bash", f"{launch}/node.sh"], 1
    files["train.sbatch"] = fill(
        "train.sbatch",
        name=job.name,
        run=job.run,
        folder=job.folder,
        nodes=job.nodes,
        tasks_per_node=tasks,
        cpus_per_task=cluster.cpus_per_task * job.ranks_per_node // tasks,
        ranks_per_node=job.ranks_per_node,
        world=job.world,
        grace_s=job.grace_s,
        stop_at="" if job.stop_at is None else f"step-{job.stop_at:08d}",
        directives="\n".join(f"#SBATCH {option}" for option in _directives(cluster)),
        environment="\n".join(_environment(cluster)),
        command=shlex.join([*_container(job), *rank]),
    )
    return files


def environment_of(cluster: ClusterConfig) -> Mapping[str, str]:
    """Variables that the ranks get besides those of this shell."""
    if cluster.interface is None:
        return cluster.env
    return {"NCCL_SOCKET_IFNAME": cluster.interface, "GLOO_SOCKET_IFNAME": cluster.interface, **cluster.env}


def _directives(cluster: ClusterConfig) -> list[str]:
    habits = {key: getattr(cluster, key) for key in ("partition", "account", "qos", "constraint", "time")}
    options = [f"--{key}={value}" for key, value in habits.items() if value is not None]
    if cluster.gpus_per_node:
        options.append(cluster.gpus.replace("{count}", str(cluster.gpus_per_node)))
    return [*options, *cluster.sbatch]


def _environment(cluster: ClusterConfig) -> list[str]:
    lines = [f"module load {shlex.join(cluster.modules)}"] if cluster.modules else []
    return lines + [f"export {name}={shlex.quote(value)}" for name, value in environment_of(cluster).items()]


def _container(job: TrainJob) -> list[str]:
    """The words before the command: options of srun (pyxis), or Apptainer."""
    cluster = job.cluster
    if cluster.container is None:
        return []
    mounts = ",".join(dict.fromkeys([f"{job.run}:{job.run}", f"{job.folder}:{job.folder}", *cluster.mounts]))
    if cluster.container_runtime == "pyxis":
        options = {"image": cluster.container, "mounts": mounts, "workdir": job.folder}
        return [f"--container-{option}={value}" for option, value in options.items()]
    gpus = ["--nv"] if cluster.gpus_per_node else []
    return ["apptainer", "exec", *gpus, "--bind", mounts, "--pwd", str(job.folder), cluster.container]
