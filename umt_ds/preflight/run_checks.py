"""How `umt doctor` goes through its checks: each in a process of its own, so that what crashes or hangs is a line."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import TimeoutError as TookTooLong
from dataclasses import replace
from functools import partial
from pathlib import Path

from pebble import ProcessExpired, ProcessPool

from umt_ds.config.load import load_run
from umt_ds.config.models import BertConfig, TeacherConfig
from umt_ds.config.run import RunConfig
from umt_ds.data.shards.storage import is_url
from umt_ds.errors import UmtError
from umt_ds.preflight import checks, input_checks, task_checks
from umt_ds.preflight.checks import Check, Finding

_LIMIT_S = 120.0
_START_S = 60.0  # to start a process; the limit counts from when it takes its check


def run_checks(
    name: str | None, overrides: Sequence[str], *, shards: Sequence[str] = (), disk: Path | None = None
) -> Iterator[Finding]:
    """All findings, each as soon as it is made."""
    config: RunConfig | None = None
    if name is not None:
        try:
            # variables that are not set stay as `${env:NAME}`: the checks of what they name say so
            config = load_run(name, overrides, keep_unset=True)
        except UmtError as error:
            yield replace(_from_error(error), name="run")
    plan = _machine_checks(config, disk) | {
        f"shards {folder}": partial(input_checks.shards, folder) for folder in shards
    }
    if config is not None:
        plan |= _checks_of_run(config)
    for title, look in plan.items():
        yield run_check(title, look)


def _machine_checks(config: RunConfig | None, disk: Path | None) -> dict[str, Check]:
    folder = disk or (config.folder if config else Path())
    return {
        "python": checks.python,
        "packages": checks.packages,
        "torch": checks.torch_build,
        "CUDA": checks.cuda,
        "DeepSpeed": checks.deepspeed,
        "Triton": checks.triton,
        "flash-attn": checks.flash_attention,
        "gloo": checks.gloo,
        "NCCL": checks.nccl,
        "Slurm": checks.slurm,
        "disk": partial(checks.disk, folder),
        "/dev/shm": partial(checks.shared_memory, config),
        "open files": checks.open_files,
    }


def _checks_of_run(config: RunConfig) -> dict[str, Check]:
    """What this run reads."""
    plan: dict[str, Check] = {
        f"shards of {source}": partial(input_checks.stream, *settings.names)
        if settings.is_stream
        else partial(input_checks.shards, settings.names[0], trains=True)
        for source, settings in config.data.sources.items()
    }
    for name, judged in config.evaluation.items():
        for key, folder in judged.places.items():
            plan[f"evaluation.{name}.{key}"] = partial(input_checks.shards, folder)
        for key, file in judged.answer_lists.items():
            plan[f"evaluation.{name}.{key}"] = partial(input_checks.answers, file)
    if any(is_url(source.names[0]) and not source.is_stream for source in config.data.sources.values()):
        plan["cache"] = partial(input_checks.cache, config.data.cache)
    for part, settings in config.task.required_weights.items():
        if isinstance(settings, TeacherConfig):
            plan[part] = partial(input_checks.teacher, settings)
        else:
            plan[part] = partial(input_checks.bert, settings)
    if any(isinstance(settings, BertConfig) for settings in config.task.required_weights.values()):
        plan["texts"] = partial(task_checks.texts, config)
    if config.task.label_field is not None:
        plan["classes"] = partial(task_checks.classes, config)
    if config.init.weights is not None:
        # a task that reads nothing else is made and filled as in a run; of others the file alone is looked at
        reads_more = bool(config.task.required_weights)
        plan["init.weights"] = (
            partial(input_checks.weights, config.init.weights, averaged=config.init.ema)
            if reads_more
            else partial(task_checks.start, config)
        )
    if config.init.resume_from is not None:
        plan["init.resume_from"] = partial(input_checks.weights, config.init.resume_from)
    return plan


def run_check(name: str, look: Check, *, limit_s: float = _LIMIT_S) -> Finding:
    """The finding of `look`, made in another process; if that crashes or takes longer, the finding says so."""
    pool = ProcessPool(1, max_tasks=1, context=multiprocessing.get_context("fork"))
    try:
        # a fork of a process with threads can hang before it takes anything
        finding: Finding = pool.schedule(_look, args=(look,), timeout=limit_s).result(limit_s + _START_S)
    except TookTooLong:
        finding = Finding(
            "problem", f"no answer within {limit_s:g} s", todo="see what it waits for: a mount, a driver?"
        )
    except ProcessExpired as error:
        finding = Finding("problem", f"the check crashed (exit code {error.exitcode})", todo="install the package anew")
    finally:
        pool.stop()  # type: ignore[no-untyped-call]  # (pebble 5.2)
        pool.join()
    return replace(finding, name=name)


def _look(look: Check) -> Finding:
    """Any exception is a finding: whatever is broken here, the other checks are made."""
    try:
        return look()
    except UmtError as error:
        return _from_error(error)
    except Exception as error:
        return Finding("problem", f"{type(error).__name__}: {error}")


def _from_error(error: UmtError) -> Finding:
    return Finding("problem", error.what, todo=error.hint or "")
