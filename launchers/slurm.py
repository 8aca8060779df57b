"""What is asked of Slurm: sbatch files filled from templates, submission, and a job array that makes shards."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from umt_ds.config.cluster import ClusterConfig
from umt_ds.errors import EXIT_STOPPED, ConfigError, MachineError

_ANSWER_S = 120.0  # a question to a Slurm that does not answer must end; sbatch may have submitted, and is waited for
_TEMPLATES = Path(__file__).resolve().parent
# SBATCH_… variables that are not called after their option
_VARIABLES = {"time": ("TIMELIMIT",), "array": ("ARRAY_INX",), "requeue": ("REQUEUE", "NO_REQUEUE")}
# Options that a job array sets itself, and how to ask for them
_SET_BY_ARRAYS = {
    "--array": "--tasks", "-a": "--tasks", "--ntasks": "--tasks", "-n": "--tasks", "--cpus-per-task": "--workers",
    "-c": "--workers", "--output": "--logs", "-o": "--logs",
}  # fmt: skip


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
    cluster: ClusterConfig


def render_array(job: PrepArray) -> tuple[str, str]:
    """The texts of the two sbatch files: of the array, and of the job that ends it."""
    given = {
        "name": as_word(job.name, "the name of the set"),
        "finish_name": as_word(f"{job.name}-finish", "the name of the set"),
        "out": job.out,
        "array_log": as_word(f"{as_pattern(job.folder)}/%A_%a.log", "the folder of the logs"),
        "finish_log": as_word(f"{as_pattern(job.folder)}/finish.log", "the folder of the logs"),
        "directives": directives_of_array(job.cluster),
        "setup": setup_of(job.cluster),
    }
    check_text(job.out, "the path of the set")
    array = fill(
        "prep.sbatch",
        script=shlex.quote(str(job.folder / "prep.sbatch")),
        last=job.tasks - 1,
        tasks=job.tasks,
        cpus=job.cpus_per_task,
        command=shlex.join(job.work),
        **given,
    )
    return array, fill("prep_finish.sbatch", command=shlex.join(job.finish), **given)


def submit_array(job: PrepArray, *, submitted: Callable[[tuple[str, ...]], None]) -> tuple[str, str]:
    """Write both files and sbatch them, the second to follow the first; the two job ids.

    `submitted` is told the ids so far after each: what then fails must not hide a job that waits already.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    scripts = job.folder / "prep.sbatch", job.folder / "prep_finish.sbatch"
    for script, text in zip(scripts, render_array(job), strict=True):
        script.write_text(text, encoding="utf-8")
    array = submit(scripts[0])
    submitted((array,))
    last = submit(scripts[1], f"--dependency=afterany:{array}")
    submitted((array, last))
    return array, last


def is_active(job: str) -> bool:
    """Whether a job is waiting or running. Raises MachineError where Slurm cannot say."""
    asked = _ask("squeue", "--noheader", "--jobs", job, timeout_s=_ANSWER_S)
    if asked.returncode != 0 and "Invalid job id" not in asked.stderr:  # how squeue calls a job that ended long ago
        raise MachineError(f"squeue cannot tell about job {job}: {' '.join(asked.stderr.split())[:300]}")
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


def _ask(
    *command: str, variables: Mapping[str, str] | None = None, timeout_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, env=variables, capture_output=True, text=True, errors="replace", check=False, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        raise MachineError(f"{command[0]} has not answered for {timeout_s:g} s") from None
    except FileNotFoundError:
        raise MachineError(f"{command[0]} is not installed here", hint="ask on a login node of Slurm") from None
    except OSError as error:
        raise MachineError(f"{command[0]} cannot be started: {error.strerror}") from error


def cancel(job: str, *options: str) -> None:
    """scancel, or with `--signal=… --batch` a signal to the batch shell. Raises MachineError with what it said."""
    done = _ask("scancel", *options, job)
    if done.returncode != 0:
        raise MachineError(f"scancel refused: {done.stderr.strip()}")


def fill(template: str, **values: object) -> str:
    """A template of this folder with its `$names` replaced."""
    return Template((_TEMPLATES / template).read_text()).substitute(values)


# ---------------------------------------------------------------- what a batch script may hold


def directives_of(cluster: ClusterConfig, *more: str) -> str:
    """The #SBATCH lines of the habits of a cluster, and of `more` options; what `sbatch` says comes last."""
    habits = {key: getattr(cluster, key) for key in ("partition", "account", "qos", "constraint", "time")}
    options = [f"--{key}={value}" for key, value in habits.items() if value is not None]
    return "\n".join(f"#SBATCH {option}" for option in [*options, *more, *cluster.sbatch])


def directives_of_array(cluster: ClusterConfig) -> str:
    """Those of an array and of the job that ends it. Raises ConfigError for an option that these set themselves."""
    refuse_options(cluster, _SET_BY_ARRAYS)
    return directives_of(cluster)


def setup_of(cluster: ClusterConfig) -> str:
    """The shell commands before a job's own: modules, then variables."""
    load = f"module load {shlex.join(cluster.modules)}"
    failed = f"{{ echo {shlex.quote(load + ' failed')} >&2; exit 1; }}"  # a job without its libraries would go on
    lines = [load, f"[ $? -eq 0 ] || {failed}"] if cluster.modules else []
    return "\n".join(lines + [f"export {name}={shlex.quote(value)}" for name, value in environment_of(cluster).items()])


def environment_of(cluster: ClusterConfig) -> Mapping[str, str]:
    """Variables that the tasks get besides those of this shell."""
    if cluster.interface is None:
        return cluster.env
    return {"NCCL_SOCKET_IFNAME": cluster.interface, "GLOO_SOCKET_IFNAME": cluster.interface, **cluster.env}


def refuse_options(cluster: ClusterConfig, taken: Mapping[str, str]) -> None:
    """Raises ConfigError where `sbatch` gives an option that the job sets itself; `taken` says how to ask for it."""
    for option in cluster.sbatch:
        word = option.split()[0].partition("=")[0]
        is_long = word.startswith("--") and len(word) > 2  # which sbatch takes cut short, too
        known = next((known for known in taken if known.startswith(word) if is_long), word[:2])
        if known in taken:
            raise ConfigError(f"sbatch: {option} is what the job sets itself", hint=f"ask for it with {taken[known]}")


def check_path(folder: Path) -> None:
    """Raises MachineError for a folder that the lines of a batch script, or of a launcher, would not take as it is."""
    bad = re.search(r"[^\w@%+=:,./~^-]", str(folder))
    if bad:
        raise MachineError(
            f"folder {str(folder)!r} has {bad[0]!r} in its name: a batch script takes no white space, quotes or other "
            "signs of the shell there",
            hint="choose another folder",
        )


def check_text(text: str, what: str) -> None:
    """Raises ConfigError for text that would not stay as it is in its line of a batch script."""
    if re.search(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]", text):
        raise ConfigError(f"{what}, {text!r}, is more than one line of text, or not UTF-8", hint="choose another name")
    if "\\" in text:  # sbatch takes it for a sign of its own, however it is quoted
        raise ConfigError(f"{what}, {text!r}, has a \\ in it, which Slurm does not keep", hint="choose another name")


def as_word(text: str, what: str) -> str:
    """As an #SBATCH line takes text with blanks, quotes and other signs. Raises ConfigError where it cannot."""
    check_text(text, what)
    return shlex.quote(text)


def as_pattern(path: Path) -> str:
    """As sbatch takes a path in which it would replace %j and the like."""
    return str(path).replace("%", "%%")


def submit(script: Path, *options: str) -> str:
    """sbatch the file; the job id. Raises MachineError with what sbatch said."""
    done = _ask("sbatch", "--parsable", *options, str(script), variables=_not_overruling(script))
    if done.returncode != 0:
        raise MachineError(f"sbatch refused the job: {done.stderr.strip()}", hint=f"look at {script}")
    return done.stdout.strip().split(";")[0]


def _not_overruling(script: Path) -> dict[str, str]:
    """The variables of this shell without SBATCH_… of options that the script gives: sbatch would let them win."""
    words = (line.split() for line in script.read_text().splitlines() if line.startswith("#SBATCH "))
    options = {word[1].lstrip("-").partition("=")[0] for word in words}
    names = {name for option in options for name in _VARIABLES.get(option, (option.upper().replace("-", "_"),))}
    return {name: value for name, value in {**os.environ}.items() if name.removeprefix("SBATCH_") not in names}
