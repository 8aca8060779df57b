"""One rank of a training job, wired together."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from umt_ds.config.batching import RunPlan, plan_run
from umt_ds.config.deepspeed_json import complete_deepspeed_json, load_deepspeed_json, precision_of, zero_stage_of
from umt_ds.config.effect import without_effect
from umt_ds.config.key_paths import flatten
from umt_ds.config.run import RunConfig
from umt_ds.config.show import as_tree, as_yaml, numbers_of
from umt_ds.data.loader import Loader
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.storage import as_path
from umt_ds.distributed.alarm import ending_together
from umt_ds.distributed.collectives import barrier, broadcast_object
from umt_ds.distributed.device import why_no_gpu
from umt_ds.distributed.job import Job, allow_long_waits, start_job
from umt_ds.distributed.world import World
from umt_ds.engine.checkpoint import CheckpointStore
from umt_ds.engine.checkpoint_files import read_tensors
from umt_ds.engine.deepspeed import build_engine
from umt_ds.engine.evaluations import check_keep_best
from umt_ds.engine.loop import train
from umt_ds.engine.manifest import versions
from umt_ds.engine.protocol import Ended, Progress, Task
from umt_ds.engine.report import Report, start_logging
from umt_ds.engine.restarts import check_restarts, ended_by_watchdog, note_failed_step
from umt_ds.engine.resume import Resume
from umt_ds.engine.stop import Stop
from umt_ds.engine.training_run import TrainingRun
from umt_ds.engine.watchdog import Watchdog
from umt_ds.errors import EXIT_DONE, EXIT_STOPPED, ConfigError, DataError, MachineError, NonFiniteError
from umt_ds.evaluation.evaluator import Evaluator, try_sets
from umt_ds.tasks.initial import read_initial, start_from
from umt_ds.tasks.kinds import build_task, evaluators_of
from umt_ds.tasks.loader import build_loader
from umt_ds.tasks.sources import count_samples
from umt_ds.weights.load import load_strict
from umt_ds.whole_file import write_whole

log = logging.getLogger("umt_ds")


def run_training(config: RunConfig, *, allow_config_change: bool = False) -> int:
    """Train until the schedule ends or a stop is agreed; the exit code. Every rank calls it.

    Raises SystemExit with the error's code after saying what is wrong, in the log too.
    """
    with start_job() as job, ending_together(job.world):
        run = _open_folder(config, job)
        stop = Stop(run, world=job.world, stop_at=config.stop_at)
        watchdog = Watchdog(run, world=job.world, limit_s=config.cadence.watchdog)
        try:
            started = _Started(config, job, run, stop, watchdog, check_restarts(run, job.world))
            return _train(started, allow_config_change=allow_config_change)
        except NonFiniteError as error:
            if error.step is not None:
                note_failed_step(run, job.world, error.step)
            raise
        except RuntimeError as error:  # torch's, when a rank that it talks to is gone
            if not ended_by_watchdog(run):
                raise
            log.error("the watchdog ended another rank, so this one leaves too: %s", error)
            os._exit(EXIT_STOPPED)  # taking leave of a broken group may hang or raise
        finally:
            watchdog.close()
            stop.close()


@dataclass(frozen=True)
class _Started:
    """What stands before a run begins: its job and folder, and what ends it from outside. failed_before: steps that
    became no number in earlier starts."""

    config: RunConfig
    job: Job
    folder: Path
    stop: Stop
    watchdog: Watchdog
    failed_before: frozenset[int]


@dataclass(frozen=True)
class _Parts:
    """What a run is made of, before DeepSpeed and a checkpoint fill it."""

    settings: dict[str, Any]  # of DeepSpeed
    plan: RunPlan
    evaluators: Sequence[Evaluator]
    loader: Loader
    task: Task
    store: CheckpointStore
    resume: Resume


def _train(run: _Started, *, allow_config_change: bool) -> int:
    """The exit code."""
    parts = _build(run, allow_config_change=allow_config_change)
    sentence = _load_initial(parts.task, run.config, parts.resume)
    _write_facts(run.folder, run.config, parts.plan, parts.settings, run.job)
    _announce(run.config, run.job, parts.plan, parts.settings, sentence)
    # workers start before DeepSpeed does: a fork copies less, and the first batch is ready with the engine
    parts.loader.start(parts.resume.progress.step)
    ended, progress = _run_loop(run, parts)
    log.info("%s at step %d of %d: %s", ended.value, progress.step, parts.plan.total_steps, run.folder)
    return EXIT_DONE if ended is Ended.FINISHED else EXIT_STOPPED


def _build(run: _Started, *, allow_config_change: bool) -> _Parts:
    """All ranks make the same parts, or none."""
    config, job = run.config, run.job
    settings = load_deepspeed_json(config.engine)
    precision = precision_of(settings)
    plan = plan_run(config, world=job.world.size, num_samples=count_samples(config, wait=True))
    evaluators = evaluators_in_training(config)
    loader = build_loader(config, plan, job.world, device=job.device)
    task = build_task(config, device=job.device, precision=precision, pieces=plan.pieces)
    fingerprints = {**{f"data.{k}": v for k, v in loader.fingerprints.items()}, **task.fingerprints}
    in_step = {**fingerprints, **cadence_of(config), **(evaluated_by(_judged(config)) if evaluators else {})}
    refuse_mixed_experiments({**numbers_of(config), "precision": precision, **in_step}, job.world)
    store = CheckpointStore(
        run.folder,
        world=job.world,
        config=config,
        fingerprints=fingerprints,
        device=job.device,
        not_reproducible=loader.not_reproducible,
        classes=task.classes,
        earlier={f"data.{name}": said for name, said in loader.earlier.items()},
    )
    resume = store.plan_resume(allow_config_change=allow_config_change)
    return _Parts(settings, plan, evaluators, loader, task, store, resume)


def _run_loop(run: _Started, parts: _Parts) -> tuple[Ended, Progress]:
    """DeepSpeed around the module, the state of a checkpoint into it, and all steps. How it ended, and where."""
    config, job = run.config, run.job
    engine = build_engine(parts.task, config, parts.plan, parts.settings)
    allow_long_waits()
    report = Report(
        run.folder,
        world=job.world,
        device=job.device,
        config=config,
        plan=parts.plan,
        flops_per_view=parts.task.flops_per_view,
    )
    try:
        progress = parts.store.load(engine, parts.resume)
        training_run = TrainingRun(
            task=parts.task,
            engine=engine,
            loader=parts.loader,
            store=parts.store,
            report=report,
            stop=run.stop,
            watchdog=run.watchdog,
            world=job.world,
            plan=parts.plan,
            cadence=config.cadence,
            seed=config.seed,
            ahead=config.engine.ahead,
            evaluators=parts.evaluators,
            judged_by_average=judged_by_average(config),
            starts_from_weights=parts.resume.folder is None and config.init.weights is not None,
            failed_before=run.failed_before,
        )
        return train(training_run, progress)
    finally:
        parts.loader.close()
        report.close()
        engine.close()


def _judged(config: RunConfig) -> RunConfig:
    """The run with the evaluations alone that are made while it trains."""
    return config.model_copy(update={"evaluation": config.evaluations_in_training})


def evaluators_in_training(config: RunConfig) -> Sequence[Evaluator]:
    """What judges a run while it trains. Raises ConfigError and DataError for sets that do not fit it, and for a metric
    to keep the best by that none of them has."""
    evaluators = evaluators_of(_judged(config)) if config.cadence.evaluate else ()
    check_keep_best(config.cadence.keep_best, evaluators)
    return evaluators


def try_evaluations(config: RunConfig) -> None:
    """A look into the sets of a run that it would meet after hours. Raises as `evaluators_in_training` and `try_sets`
    do."""
    try_sets(evaluators_in_training(config))


def cadence_of(config: RunConfig) -> dict[str, object]:
    """When the ranks of a run meet for something besides a step: it must be in the same steps on all of them."""
    return flatten({"cadence": as_tree(config)["cadence"], "stop_at": config.stop_at})


def evaluated_by(config: RunConfig) -> dict[str, object]:
    """The evaluations of a run, to compare between ranks: of a set its content, since it may lie elsewhere there."""
    leaves = flatten({"evaluation": as_tree(config)["evaluation"]})
    for name, settings in config.evaluation.items():
        for key, shards in settings.places.items():
            with suppress(DataError):  # what is no set stays a path: its evaluator says what is wrong with it
                leaves[f"evaluation.{name}.{key}"] = load_manifest(as_path(shards)).fingerprint
    return leaves


def judged_by_average(config: RunConfig) -> frozenset[str]:
    """The evaluations that judge the averaged weights."""
    return frozenset(name for name, settings in config.evaluation.items() if settings.ema)


def refuse_mixed_experiments(mine: Mapping[str, object], world: World) -> None:
    """Every rank calls it with what decides its numbers. Raises ConfigError on a rank where that is not what it is on
    the first one: another file on one node, or a variable that another shell set, would be a run that nobody meant."""
    theirs = broadcast_object(mine)
    odd = [key for key in sorted(mine.keys() | theirs.keys()) if mine.get(key) != theirs.get(key)]
    if odd:
        values = "; ".join(f"{key}: {theirs.get(key)} there, {mine.get(key)} here" for key in odd[:5])
        raise ConfigError(
            f"rank {world.rank} was started for another experiment than rank 0: {values}",
            hint="give all ranks the same command, variables and files",
        )


def _load_initial(task: Task, config: RunConfig, resume: Resume) -> str:
    """Weights into the module, before DeepSpeed copies them: the four cases, and a sentence about it."""
    if resume.folder is not None:
        load_strict(task.module, dict(read_tensors(resume.folder, "weight", resume.manifest)), where=str(resume.folder))
        return resume.sentence
    weights = config.init.weights
    if weights is not None:
        initial = read_initial(weights, averaged=config.init.ema)
        which = "averaged weights" if config.init.ema else "weights"
        return f"{resume.sentence} with {which} from {weights}: {start_from(task, initial, config.task)}"
    return f"{resume.sentence} from scratch"


def _open_folder(config: RunConfig, job: Job) -> Path:
    run = config.folder
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"cannot make the run folder {run}: {error}", hint="choose another run_dir") from error
    barrier()
    start_logging(run, job.world)
    return run


def _write_facts(run: Path, config: RunConfig, plan: RunPlan, settings: dict[str, Any], job: Job) -> None:
    """RUN/config.yaml and RUN/deepspeed.json: what this run really runs with."""
    if not job.world.is_first:
        return
    texts = {
        "config.yaml": as_yaml(as_tree(config)),
        "deepspeed.json": json.dumps(complete_deepspeed_json(settings, config, plan), indent=1) + "\n",
    }
    for name, text in texts.items():
        try:
            write_whole(run / name, text)
        except OSError as error:
            raise MachineError(
                f"{run / name} cannot be written: {error}", hint="free some space, or move what is in its place away"
            ) from error


def _announce(config: RunConfig, job: Job, plan: RunPlan, settings: dict[str, Any], sentence: str) -> None:
    log.info("run %s in %s", config.name, config.folder)
    log.info("%s", ", ".join(f"{name} {number}" for name, number in versions().items()))
    log.info(
        "%d rank(s) on %s (%s), %s, ZeRO %d; %d draws a step = %d micro × %d ranks × %d accumulation",
        job.world.size,
        job.device.type,
        torch.cuda.get_device_name(job.device) if job.device.type == "cuda" else "gloo",
        precision_of(settings),
        zero_stage_of(settings),
        plan.draws_per_step,
        plan.micro,
        plan.world,
        plan.accumulation,
    )
    log.info(
        "%d steps (%d an epoch), warm-up %d%s, peak lr %.3g, min lr %.3g (%s)",
        plan.total_steps,
        plan.steps_per_epoch,
        plan.warmup_steps,
        f", decay {plan.decay_steps}" if plan.decay_steps else "",
        plan.peak_lr,
        plan.min_lr,
        plan.lr_curve,
    )
    if (why := why_no_gpu()) is not None:
        log.warning("training on CPUs, although this machine has an NVIDIA driver: %s", why)
    for line in without_effect(config, on_gpu=job.device.type == "cuda"):
        log.info("%s", line)
    log.info("%s", sentence)
