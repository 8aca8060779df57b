"""More than one machine: a Slurm job array, or Ray. The door to ray.

Both give each task some of a plan's shards, by a rule that needs no coordinator. A task calls
`prepare.build_shards`, which works with processes of its own machine; it finds all it needs in OUT.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from data_prep.clip import RunOptions
from data_prep.making.prepare import build_shards
from data_prep.state.claim import note_jobs, refuse_beside_jobs
from data_prep.state.plan import Plan
from launchers.slurm import PrepArray, directives_of_array, is_active, submit_array
from umt_ds.config.cluster import load_cluster
from umt_ds.data.shards.storage import absolute, is_local
from umt_ds.errors import ConfigError, MachineError, UmtError
from umt_ds.terminal import progress

# Tasks of Ray that wait or run, a core: 20,000 at once are a load for its head
_TASKS_A_CORE = 2
_FOR_TRAINING = ("gpus_per_node", "gpus", "cpus_per_task", "interface", "container", "container_runtime", "mounts")


@dataclass(frozen=True)
class Part:
    """Part `number` of `of`: of all shards of a plan, those whose number leaves the remainder `number`."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """`3/64`. Raises ConfigError for anything else."""
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and int(number) < int(of)):
            raise ConfigError(f"--part {text!r} is no part", hint="NUMBER/PARTS with 0 <= NUMBER < PARTS, such as 0/64")
        return cls(int(number), int(of))

    def of_shards(self, shards: Sequence[int]) -> list[int]:
        """The shards of this part."""
        return [shard for shard in shards if shard % self.of == self.number]


@dataclass(frozen=True)
class SlurmOptions:
    """What the user asks of Slurm. `extra` are sbatch options as Slurm writes them; they win over the habits of the
    cluster."""

    tasks: int
    extra: tuple[str, ...] = ()
    logs: Path | None = None


def array_of(plan: Plan, run: RunOptions, slurm: SlurmOptions, *, retry_failed: bool) -> PrepArray:
    """The job array that makes what is pending of `plan`, asked for by the habits of the cluster.

    Raises ConfigError where its tasks cannot see the data, and for habits that cannot be read.
    """
    if not is_local(plan.out) and slurm.logs is None:
        raise ConfigError(f"{plan.out} cannot hold Slurm's logs", hint="name a shared folder with --logs")
    out = str(absolute(plan.out))
    options = ["--workers", str(run.workers), "--timeout", str(run.timeout_s), "--memory", str(run.memory_gb)]
    words = [sys.executable, "-m", "data_prep"]
    return PrepArray(
        name=plan.name,
        out=out,
        folder=(slurm.logs or plan.state / "slurm").resolve(),
        tasks=min(slurm.tasks, max(1, plan.num_shards)),
        cpus_per_task=run.workers,
        work=[*words, "work", out, "--no-finish", *options, *(["--retry-failed"] if retry_failed else [])],
        finish=[*words, "finish", out, "--max-bad", str(run.max_bad)],
        cluster=load_cluster({"sbatch": slurm.extra}),
    )


def habits_for(extra: Sequence[str]) -> list[str]:
    """The lines that a job array asks Slurm with, before there is one. Raises ConfigError for what cannot be asked."""
    return directives_of_array(load_cluster({"sbatch": tuple(extra)})).splitlines()


def habits_not_used(job: PrepArray) -> list[str]:
    """The keys given in the cluster file that do not apply to a job array on CPUs."""
    return [key for key in _FOR_TRAINING if key in job.cluster.model_fields_set]


def start_array(plan: Plan, job: PrepArray) -> tuple[str, str]:
    """Submit; the ids of the array and of the job that ends it. Raises DataError where one is working already."""
    refuse_beside_jobs(plan.state)
    return submit_array(job, submitted=partial(note_jobs, plan.state))


def wait_for(plan: Plan, jobs: Sequence[str], *, pause_s: float = 5.0) -> None:
    """Show how many shards are done until the last of `jobs` has ended."""
    before = plan.num_shards - len(plan.pending())
    with progress(total=plan.num_shards, initial=before, unit="shard", desc=plan.name) as bar:
        while is_active(jobs[-1]):
            bar.update(plan.num_done() - bar.n)
            time.sleep(pause_s)
        bar.update(plan.num_done() - bar.n)


@dataclass(frozen=True)
class RayCluster:
    """A cluster that was reached. cores: of all its machines together."""

    cores: int

    def build(self, plan: Plan, shards: Sequence[int], *, run: RunOptions) -> None:
        """Make shards; a task is a shard and a core. Raises what a task raises."""
        import ray

        plan_there = ray.put(plan)
        task = ray.remote(num_cpus=1, max_retries=3)(_build_shard)
        to_begin = iter(shards)
        under_way: dict[Any, int] = {}
        total, bad = sum(plan.num_clips_of(shard) for shard in shards), 0
        with progress(total=total, unit="clip", desc=plan.name) as bar, _errors_of_tasks():
            while True:
                for shard in islice(to_begin, _TASKS_A_CORE * self.cores - len(under_way)):
                    under_way[task.remote(plan_there, shard, replace(run, workers=1))] = shard
                if not under_way:
                    return
                (ended,), _ = ray.wait(list(under_way), num_returns=1)
                bad += ray.get(ended)
                bar.set_postfix(bad=bad, refresh=False)
                bar.update(plan.num_clips_of(under_way.pop(ended)))


@contextmanager
def ray_cluster(address: str | None, *, workers: int) -> Iterator[RayCluster]:
    """The Ray cluster at `address`, or one of `workers` cores that is started here and stopped afterwards.

    Raises MachineError where it cannot be reached.
    """
    import ray

    try:
        if address:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        else:
            ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise MachineError(f"Ray at {address or 'this machine'} does not answer: {error}") from error
    try:
        yield RayCluster(max(1, int(ray.cluster_resources().get("CPU", 1))))
    finally:
        ray.shutdown()


@contextmanager
def _errors_of_tasks() -> Iterator[None]:
    """An error that a task raised, as it was there."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, UmtError) else error from None


def _build_shard(plan: Plan, shard: int, run: RunOptions) -> int:
    """How many clips of the shard are refused."""
    build_shards(plan, [shard], run=run)
    done = plan.done_now(shard)
    return len(done.refused) if done else 0
