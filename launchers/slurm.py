"""One readable sbatch file for a training job, and its submission."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from umt_ds.errors import MachineError

_TEMPLATE = Path(__file__).resolve().parent / "train.sbatch"


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
    if re.search(r"\s", str(job.run)):
        raise MachineError(
            f"run folder {job.run} has white space in its name, which #SBATCH lines cannot hold",
            hint="choose another run_dir",
        )
    return Template(_TEMPLATE.read_text()).substitute(
        script=job.run / "train.sbatch",
        name=job.name,
        nodes=job.nodes,
        tasks_per_node=job.tasks_per_node,
        run=job.run,
        grace_s=job.grace_s,
        directives="".join(f"#SBATCH {option}\n" for option in job.extra),
        command=shlex.join(job.command),
    )


def submit(script: Path) -> str:
    """sbatch the file; the job id. Raises MachineError with what sbatch said."""
    try:
        done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise MachineError("sbatch is not installed here", hint="run umt-launch on a login node") from None
    except subprocess.CalledProcessError as error:
        raise MachineError(f"sbatch refused the job: {error.stderr.strip()}", hint=f"look at {script}") from error
    return done.stdout.strip().split(";")[0]
