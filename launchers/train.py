"""The files of a training job: one sbatch file, and what starts the ranks of a node."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launchers.slurm import as_pattern, check_path, directives_of, fill, refuse_options, setup_of
from umt_ds.config.cluster import ClusterConfig, time_limit_s
from umt_ds.errors import ConfigError, MachineError

GRACE_S = 600  # between USR1 and the time limit, unless asked otherwise
_LEAST_WORK_S = 120  # Slurm may signal a minute early
# Options that a training job sets itself, and how to ask for them
_SET_BY_JOBS = {
    "--nodes": "--nodes", "-N": "--nodes", "--ntasks": "--tasks", "-n": "--tasks", "--ntasks-per-node": "--tasks",
    "--cpus-per-task": "--cpus-per-task", "-c": "--cpus-per-task", "--signal": "--grace", "--array": "several runs",
    "-a": "several runs", "--output": "run_dir=…", "-o": "run_dir=…", "--chdir": "cd", "-D": "cd",
}  # fmt: skip

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
    grace_s: int = GRACE_S  # seconds between USR1 and the time limit
    stop_at: int | None = None
    words: Sequence[str] = ()  # options of umt train

    @property
    def world(self) -> int:
        return self.nodes * self.ranks_per_node


def render(job: TrainJob) -> dict[str, str]:
    """Text by file name, all for RUN/launch; train.sbatch is the one to submit."""
    for folder in (job.run, job.folder):
        check_path(folder)
    launch, cluster = job.run / "launch", job.cluster
    refuse_options(cluster, _SET_BY_JOBS)
    python = "python" if cluster.container else sys.executable
    rank = ["bash", f"{launch}/rank.sh", python, "-m", "umt_ds", "train", f"{launch}/config.yaml", *job.words]
    files = {"rank.sh": (Path(__file__).resolve().parent / "rank.sh").read_text()}
    tasks = job.ranks_per_node  # srun makes each rank, or one launcher a node, which makes the ranks
    if job.launcher != "srun":
        files["node.sh"] = fill(
            f"{job.launcher}_node.sh",
            hostfile=shlex.quote(f"{launch}/hostfile"),
            python=shlex.quote(python),
            ranks_per_node=job.ranks_per_node,
            command=shlex.join(rank),
        )
        rank, tasks = ["bash", f"{launch}/node.sh"], 1
    files["train.sbatch"] = fill(
        "train.sbatch",
        name=job.name,
        run=job.run,
        run_word=shlex.quote(str(job.run)),
        run_pattern=as_pattern(job.run),
        folder=job.folder,
        nodes=job.nodes,
        tasks_per_node=tasks,
        cpus_per_task=cluster.cpus_per_task * job.ranks_per_node // tasks,
        ranks_per_node=job.ranks_per_node,
        world=job.world,
        grace_s=job.grace_s,
        stop_at="" if job.stop_at is None else f"step-{job.stop_at:08d}",
        directives=directives_of(cluster, *_gpus(cluster)),
        setup=setup_of(cluster),
        command=shlex.join([*_container(job), *rank]),
    )
    return files


def grace_within(time: str | None, asked_s: int | None) -> int:
    """Seconds before a time limit of Slurm at which a job begins to save: as asked, or the default, which is at most a
    quarter of the limit. Raises ConfigError where too little is left to train: the job would be requeued for ever."""
    limit_s = None if time is None else time_limit_s(time)
    if limit_s is None:
        return asked_s or GRACE_S
    grace_s = asked_s or min(GRACE_S, limit_s // 4)
    if limit_s - grace_s < _LEAST_WORK_S:
        raise ConfigError(
            f"the time limit {time} is {limit_s} s, and saving begins {grace_s} s before it (--grace): less than "
            f"{_LEAST_WORK_S} s are left to start and to train, and the job would be requeued for ever",
            hint="a longer --time" + ("" if asked_s is None else ", or a shorter --grace"),
        )
    return grace_s


def _gpus(cluster: ClusterConfig) -> list[str]:
    return [cluster.gpus.replace("{count}", str(cluster.gpus_per_node))] if cluster.gpus_per_node else []


def _container(job: TrainJob) -> list[str]:
    """The words before the command: options of srun (pyxis), or Apptainer."""
    cluster = job.cluster
    if cluster.container is None:
        return []
    if bad := [str(folder) for folder in (job.run, job.folder) if re.search("[:,]", str(folder))]:
        raise MachineError(f"{bad[0]} cannot be mounted into a container: it has : or , in its name")
    mounts = ",".join(dict.fromkeys([f"{job.run}:{job.run}", f"{job.folder}:{job.folder}", *cluster.mounts]))
    if cluster.container_runtime == "pyxis":
        options = {"image": cluster.container, "mounts": mounts, "workdir": job.folder}
        return [f"--container-{option}={value}" for option, value in options.items()]
    gpus = ["--nv"] if cluster.gpus_per_node else []
    return ["apptainer", "exec", *gpus, "--bind", mounts, "--pwd", str(job.folder), cluster.container]
