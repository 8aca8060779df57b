"""What is known of a launched run: its jobs, what they wrote, how to go on."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from launchers.slurm import cancel, is_active, state_of, submit
from umt_ds.engine.manifest import checkpoint_folders, step_of
from umt_ds.engine.readback import is_file, parse_json, read_back
from umt_ds.errors import ConfigError, MachineError

_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Submission:
    """One line of RUN/launch/jobs.jsonl."""

    job: str
    submitted: str  # UTC, ISO 8601
    asked: str  # what was asked for, in words


_FIELDS = {field.name for field in fields(Submission)}


def submit_run(run: Path, asked: str) -> str:
    """sbatch RUN/launch/train.sbatch, from a clean slate of stops and stalls; the job id."""
    for left_over in ("stop", "launch/stalls"):
        (run / left_over).unlink(missing_ok=True)
    record = run / "launch" / "jobs.jsonl"
    record.touch()  # fails before there is a job
    job = submit(run / "launch" / "train.sbatch")
    line = Submission(job, datetime.now(UTC).isoformat(timespec="seconds"), asked)
    try:
        with record.open("a") as jobs:
            jobs.write("\n" * _ends_within_a_line(record) + json.dumps(asdict(line)) + "\n")
    except OSError as error:
        raise MachineError(
            f"job {job} is submitted, but could not be noted in {record}: {error.strerror}",
            hint=f"umt-launch cannot look after it: stop it with scancel {job}, make room, and submit again",
        ) from error
    return job


def _ends_within_a_line(file: Path) -> bool:
    """Whether a crash or a full disk left half a line."""
    return not file.read_bytes().endswith(b"\n") and file.stat().st_size > 0


def resume_run(run: Path) -> str:
    """Submit again what was submitted last; the job id."""
    last = last_submission(run)
    refuse_second_job(run)
    return submit_run(run, last.asked)


def stop_run(run: Path) -> str:
    """Stop for good: a running job saves first, a waiting one leaves the queue. Returns what was done, in words."""
    job = last_submission(run).job
    if not is_active(job):
        return f"job {job} has ended already"
    if state_of(job).startswith("PENDING"):
        cancel(job)
        return f"job {job} was waiting and is cancelled"
    cancel(job, "--signal=USR2", "--batch")
    return f"job {job} saves at the end of the step and stays stopped"


def refuse_second_job(run: Path) -> None:
    """Raises MachineError where a job of this run waits or runs: two would write over each other."""
    if (run / "launch" / "jobs.jsonl").is_file():
        job = last_submission(run).job
        if is_active(job):
            raise MachineError(
                f"job {job} is already working in {run}", hint=f"umt-launch stop {run}; or choose another run_dir"
            )


def last_submission(run: Path) -> Submission:
    """Raises ConfigError where `run` is not the folder of a run that umt-launch submitted, MachineError where the last
    line is cut off: to take the one before it could give a run two jobs."""
    jobs = run / "launch" / "jobs.jsonl"
    if not is_file(jobs):
        raise ConfigError(f"{run} is not a run that umt-launch submitted", hint="name the run folder (run_dir)")
    lines = read_back(jobs).splitlines() or [b""]
    try:
        found = parse_json(lines[-1])
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.keys() != _FIELDS or not all(isinstance(v, str) for v in found.values()):
        raise MachineError(
            f"{jobs}: line {len(lines)} tells of no submission", hint="see what runs (squeue), then remove that line"
        )
    return Submission(**found)


def log_of(run: Path) -> Path:
    """What the ranks of the last job print."""
    return run / "launch" / f"slurm-{last_submission(run).job}.log"


def describe(run: Path) -> list[tuple[str, str]]:
    """What there is to know, as (name, text)."""
    last = last_submission(run)
    checkpoints = checkpoint_folders(run)
    history = run / "launch" / "history"
    return [
        ("run", str(run)),
        ("job", f"{last.job} {state_of(last.job)}: {last.asked}, submitted {last.submitted}"),
        ("step", _last_step(run / "log.txt")),
        ("checkpoint", f"step {step_of(checkpoints[0])}, {checkpoints[0]}" if checkpoints else "none"),
        *(("history", line) for line in _lines_of(history)[-6:]),
    ]


def _lines_of(path: Path) -> list[str]:
    """Lines that a crash may have spoilt; none without the file."""
    return read_back(path).decode(errors="replace").splitlines() if is_file(path) else []


def _last_step(log: Path) -> str:
    """The last line of the training log that tells of a step."""
    if not log.is_file():
        return "none"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return next((line for line in reversed(lines) if re.match(r"\S+ step \d+/\d+", line)), "none")
