"""What is asked of Slurm: sbatch files filled from templates, submission, and a job array that makes shards."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from umt_ds.errors import EXIT_STOPPED, MachineError

_TEMPLATES = Path(__file__).resolve().parent


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
    check_no_white_space(job.folder)
    given = {"name": job.name, "out": job.out, "logs": job.folder, "directives": _directives(job.extra)}
    array = fill(
        "prep.sbatch",
        script=job.folder / "prep.sbatch",
        last=job.tasks - 1,
        tasks=job.tasks,
        cpus=job.cpus_per_task,
        command=shlex.join(job.work),
        **given,
    )
    return array, fill("prep_finish.sbatch", command=shlex.join(job.finish), **given)


def submit_array(job: PrepArray) -> tuple[str, str]:
    """Write both files and sbatch them, the second to follow the first; the two job ids."""
    job.folder.mkdir(parents=True, exist_ok=True)
    scripts = job.folder / "prep.sbatch", job.folder / "prep_finish.sbatch"
    for script, text in zip(scripts, render_array(job), strict=True):
        script.write_text(text)
    array = submit(scripts[0])
    return array, submit(scripts[1], f"--dependency=afterany:{array}")


def is_active(job: str) -> bool:
    """Whether a job is waiting or running. Raises MachineError where Slurm cannot say."""
    asked = _ask("squeue", "--noheader", "--jobs", job)
    if asked.returncode != 0 and "Invalid job id" not in asked.stderr:  # how squeue calls a job that ended long ago
        raise MachineError(f"squeue cannot tell about job {job}: {asked.stderr.strip()}")
    return bool(asked.stdout.strip())


def state_of(job: str) -> str:
    """What Slurm says of a job: `RUNNING on n[1-2]`, `PENDING (Resources)`, `FAILED with exit code 75 (…)`; Slurm
    forgets ended jobs."""
    facts = dict(word.partition("=")[::2] for word in _ask("scontrol", "show", "job", "--oneliner", job).stdout.split())
    match facts.get("JobState"):
        case None:
            return "is no longer known to Slurm"
        case "RUNNING":
            return f"RUNNING on {facts.get('NodeList')}"
        case "PENDING":
            return f"PENDING ({facts.get('Reason')})"
        case "FAILED":
            code = facts.get("ExitCode", "").partition(":")[0]
            return f"FAILED with exit code {code}" + (" (stopped, resumable)" if code == str(EXIT_STOPPED) else "")
        case state:
            return state


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise MachineError(f"{command[0]} is not installed here", hint="ask on a login node of Slurm") from None


def cancel(job: str, *options: str) -> None:
    """scancel, or with `--signal=… --batch` a signal to the batch shell. Raises MachineError with what it said."""
    done = _ask("scancel", *options, job)
    if done.returncode != 0:
        raise MachineError(f"scancel refused: {done.stderr.strip()}")


def fill(template: str, **values: object) -> str:
    """A template of this folder with its `$names` replaced."""
    return Template((_TEMPLATES / template).read_text()).substitute(values)


def _directives(options: Sequence[str]) -> str:
    return "".join(f"#SBATCH {option}\n" for option in options)


def check_no_white_space(folder: Path) -> None:
    """Raises MachineError, as #SBATCH lines cannot quote."""
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
