"""The arithmetic of a run, computed once: accumulation, steps, learning rates."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

from umt_ds.config.lone_rows import refuse_lone_rows
from umt_ds.config.optimisation import LrCurve, ScheduleConfig
from umt_ds.config.run import RunConfig
from umt_ds.errors import ConfigError


@dataclass(frozen=True)
class RunPlan:
    """Derived numbers of a run. One step draws `draws_per_step` clips and shows `views_per_step` views."""

    world: int
    micro: int  # draws per rank and micro-batch
    chunk: int  # of those, in memory at a time: all, but with batch.split_contrastive
    accumulation: int
    draws_per_step: int
    views_per_step: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    peak_lr: float
    min_lr: float
    lr_curve: LrCurve = "cosine_offset"
    warmup_lr: float = 0.0
    decay_steps: int = 0  # the last ones of a run whose curve is wsd

    @property
    def pieces(self) -> int:
        """That a micro-batch is worked on in: 1, but with batch.split_contrastive."""
        return self.micro // self.chunk


def accumulation_of(global_draws: int, micro: int, world: int) -> int:
    """Micro-batches per step: global = micro × world × accumulation. Raises ConfigError if it does not divide."""
    per_micro_step = micro * world
    if global_draws % per_micro_step == 0:
        return global_draws // per_micro_step
    low = global_draws // per_micro_step * per_micro_step
    near = " or ".join(str(n) for n in (low, low + per_micro_step) if n > 0)
    share, left_over = divmod(global_draws, world)
    pairs = ((one, share // one) for one in range(1, isqrt(share) + 1) if share % one == 0 and not left_over)
    fits = [part for pair in pairs for part in pair if part <= micro]
    micro_hint = f", or batch.micro={max(fits)}" if fits else ""
    raise ConfigError(
        f"batch.global={global_draws} is not a multiple of micro × world = {micro} × {world} = {per_micro_step}",
        hint=f"nearest batch.global: {near}{micro_hint}",
    )


def split_batch(config: RunConfig, world: int) -> tuple[int, int]:
    """Draws of a rank's micro-batch, and micro-batches a step. Raises ConfigError where the batch cannot be cut so."""
    micro, accumulation = config.batch.micro, accumulation_of(config.batch.global_, config.batch.micro, world)
    if config.batch.split_contrastive:
        micro, accumulation = micro * accumulation, 1
    _refuse_shrunken_contrast(config, micro * world, accumulation)
    refuse_lone_rows(config.task, of_rank=micro, of_all=micro * world)
    return micro, accumulation


def plan_run(config: RunConfig, *, world: int, num_samples: int) -> RunPlan:
    """All derived numbers. `num_samples` counts the samples of all sources, as their `repeat` says: an epoch's draws.

    Steps per epoch are rounded down and the schedule lasts a whole number of steps, as in the published
    code (METHOD.md, "Optimisation: stage 1"). Raises ConfigError where nothing would be trained.
    """
    batch, optim, schedule = config.batch, config.optim, config.schedule
    views = batch.global_ * config.data.num_sample
    steps_per_epoch = num_samples // batch.global_
    if schedule.steps is not None:
        total, warmup, decay = schedule.steps, schedule.warmup_steps or 0, schedule.decay_steps or 0
    else:
        assert schedule.epochs is not None  # the schema demands one of the two
        if steps_per_epoch == 0:
            raise ConfigError(
                f"batch.global={batch.global_} is larger than the data ({num_samples} samples): an epoch has no step",
                hint="make batch.global smaller, or give schedule.steps (and null schedule.epochs)",
            )
        total = int(schedule.epochs * steps_per_epoch)
        warmup = int((schedule.warmup_epochs or 0) * steps_per_epoch)
        decay = int((schedule.decay_epochs or 0) * steps_per_epoch)
    _refuse_no_room(schedule, total, warmup, decay)
    micro, accumulation = split_batch(config, world)
    scale = views / 256 if optim.lr_rule == "per_256" else 1.0
    return RunPlan(
        world=world,
        micro=micro,
        chunk=batch.micro,
        accumulation=accumulation,
        draws_per_step=batch.global_,
        views_per_step=views,
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
        warmup_steps=warmup,
        peak_lr=optim.lr * scale,
        min_lr=optim.min_lr * scale,
        lr_curve=schedule.curve,
        warmup_lr=optim.warmup_lr * scale,
        decay_steps=decay,
    )


def _refuse_no_room(schedule: ScheduleConfig, total: int, warmup: int, decay: int) -> None:
    """Raises ConfigError where warm-up and decay do not fit into the run."""
    if warmup >= total:
        raise ConfigError(
            f"warm-up ({warmup} steps) is not shorter than the run ({total} steps)",
            hint="shorten schedule.warmup_*",
        )
    if warmup + decay > total:
        raise ConfigError(
            f"warm-up ({warmup} steps) and decay ({decay} steps) are longer than the run ({total} steps)",
            hint="shorten schedule.warmup_* or schedule.decay_*",
        )
    if schedule.curve == "wsd" and not decay:
        raise ConfigError(
            f"schedule.decay_epochs={schedule.decay_epochs:g} is less than a step: the learning rate would not fall",
            hint="more of them, or schedule.curve=constant",
        )


def _refuse_shrunken_contrast(config: RunConfig, together: int, accumulation: int) -> None:
    """Raises ConfigError where rows of one step would be compared in parts, which is another objective."""
    if accumulation > 1 and config.task.compares_rows:
        raise ConfigError(
            f"{accumulation} micro-batches a step would shrink what each text is compared with from "
            f"{config.batch.global_} videos to {together}",
            hint="batch.split_contrastive=true compares all of them, batch.micro rows in memory at a time; "
            "or more ranks, or a larger batch.micro",
        )
