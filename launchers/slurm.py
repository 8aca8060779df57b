"""Readable sbatch files: for a training job, for a job array that makes shards; and their submission."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from umt_ds.errors import MachineError

_TEMPLATES = Path(__file__).resolve().parent


@dataclass(frozen=True)
class SlurmJob:
    """What the user asks of Slurm. One task per device; `extra` are #SBATCH options as Slurm writes them."""

    name: str
    run: Path  # absolute run folder
    nodes: int
    tasks_per_node: int
    grace_s: int  # seconds between USR1 and the time limit
    command: Sequence[str]
    extra: Sequence[str] = ()


def render(job: SlurmJob) -> str:
    """The text of the sbatch file."""
    _check_no_white_space(job.run)
    return _fill(
        "train.sbatch",
        script=job.run / "train.sbatch",
        name=job.name,
        nodes=job.nodes,
        tasks_per_node=job.tasks_per_node,
        run=job.run,
        grace_s=job.grace_s,
        directives=_directives(job.extra),
        command=shlex.join(job.command),
    )


@dataclass(frozen=True)
class PrepArray:
    """A job array that makes the shards of one set, and the small job that ends it."""

    name: str
    out: str  # the set's folder or URL
    folder: Path  # absolute; for the two scripts and the logs
    tasks: int
    cpus_per_task: int
    work: Sequence[str]  # the command of a task, without its part
    finish: Sequence[str]
    extra: Sequence[str] = ()  # #SBATCH options as Slurm writes them


def render_array(job: PrepArray) -> tuple[str, str]:
    """The texts of the two sbatch files: of the array, and of the job that ends it."""
    _check_no_white_space(job.folder)
    given = {"name": job.name, "out": job.out, "logs": job.folder, "directives": _directives(job.extra)}
    array = _fill(
        "prep.sbatch",
        script=job.folder / "prep.sbatch",
        last=job.tasks - 1,
        tasks=job.tasks,
        cpus=job.cpus_per_task,
        command=shlex.join(job.work),
        **given,
    )
    return array, _fill("prep_finish.sbatch", command=shlex.join(job.finish), **given)


def submit_array(job: PrepArray) -> tuple[str, str]:
    """Write both files and sbatch them, the second to follow the first; the two job ids."""
    job.folder.mkdir(parents=True, exist_ok=True)
    scripts = job.folder / "prep.sbatch", job.folder / "prep_finish.sbatch"
    for script, text in zip(scripts, render_array(job), strict=True):
        script.write_text(text)
    array = submit(scripts[0])
    return array, submit(scripts[1], f"--dependency=afterany:{array}")


def is_active(job: str) -> bool:
    """Whether a job is waiting or running."""
    asked = subprocess.run(["squeue", "--noheader", "--jobs", job], capture_output=True, text=True, check=False)
    return asked.returncode == 0 and bool(asked.stdout.strip())  # an ended job is soon unknown: an error


def _fill(template: str, **values: object) -> str:
    return Template((_TEMPLATES / template).read_text()).substitute(values)


def _directives(options: Sequence[str]) -> str:
    return "".join(f"#SBATCH {option}\n" for option in options)


def _check_no_white_space(folder: Path) -> None:
    if re.search(r"\s", str(folder)):
        raise MachineError(
            f"folder {folder} has white space in its name, which #SBATCH lines cannot hold",
            hint="choose another folder",
        )


def submit(script: Path, *options: str) -> str:
    """sbatch the file; the job id. Raises MachineError with what sbatch said."""
    command = ["sbatch", "--parsable", *options, str(script)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise MachineError("sbatch is not installed here", hint="give the command on a login node of Slurm") from None
    except subprocess.CalledProcessError as error:
        raise MachineError(f"sbatch refused the job: {error.stderr.strip()}", hint=f"look at {script}") from error
    return done.stdout.strip().split(";")[0]
