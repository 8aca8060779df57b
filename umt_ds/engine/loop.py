"""The loop: from progress to the end of the schedule. Read this first.

Nothing here knows what is learned (a `Task` does) or how the state is sharded (the `Engine` does). The host runs one
step ahead of what it has heard of (see `pulse`); before it saves, and at the end, it waits until it has heard all.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from umt_ds.batch import Batch, Losses
from umt_ds.config.batching import RunPlan
from umt_ds.config.running import CadenceConfig
from umt_ds.distributed.world import World
from umt_ds.engine.checkpoint import CheckpointStore
from umt_ds.engine.deepspeed import Engine
from umt_ds.engine.guard import FiniteGuard
from umt_ds.engine.manifest import CHECKPOINTS
from umt_ds.engine.prefetch import InputPrefetcher
from umt_ds.engine.protocol import BatchSource, Ended, Progress, Task
from umt_ds.engine.report import Report
from umt_ds.engine.schedule import lr_at
from umt_ds.engine.speed import Lap, Stopwatch, span
from umt_ds.engine.step_stats import LocalStepStats, StepStatsReducer
from umt_ds.engine.stop import Stop
from umt_ds.engine.watchdog import Watchdog
from umt_ds.keyed import add_digests, key_of


def train(
    task: Task,
    engine: Engine,
    loader: BatchSource,
    store: CheckpointStore,
    report: Report,
    stop: Stop,
    watchdog: Watchdog,
    *,
    world: World,
    progress: Progress,
    plan: RunPlan,
    cadence: CadenceConfig,
    seed: int,
    ahead: bool,
    failed_before: Collection[int] = (),
) -> tuple[Ended, Progress]:
    """Run from `progress` to `plan.total_steps`. All ranks call it; returns why it ended, and where.

    failed_before: 0-based steps in which an earlier start met a NaN.
    """
    guard = FiniteGuard(
        draws_per_step=plan.draws_per_step,
        overflow_is_normal=engine.precision == "fp16",
        max_skipped=cadence.max_skipped,
        failed_before=failed_before,
    )
    pulse, watch = StepStatsReducer(world, engine.device), Stopwatch(engine.device)
    feed = InputPrefetcher(task, loader, watch, first=progress.step, device=engine.device, ahead=ahead)
    laps: dict[int, Lap] = {}  # of the logged steps that were not heard yet
    for step in range(progress.step + 1, plan.total_steps + 1):
        step_losses = train_step(engine, feed, step=step - 1, plan=plan, key=(seed, world.rank))
        watch.count_step()
        ending = step == plan.total_steps or stop.is_due(step)
        saving = ending or step % cadence.save == 0
        if saving or step % cadence.log == 0:
            laps[step] = watch.lap()
        pulse.submit(
            step_losses.to_stats(step, engine, wants_stop=stop.wanted(), wrote=store.has_written(), lap=laps.get(step))
        )
        heard = pulse.collect(now=saving)
        if any(one.wants_stop for one in heard):  # stop after this step, of which all is wanted, too
            ending = saving = True
            laps.setdefault(step, watch.lap())
            heard += pulse.collect(now=True)
        for one in heard:
            guard.check(one, skipped_before=progress.skipped, before_raising=store.finish)
            progress = progress.after(one, plan.draws_per_step)
            if one.step in laps:
                report.step(progress, one, laps.pop(one.step))
            if one.wrote_snapshot:
                with watch.paused():
                    store.finish()
        watchdog.beat(step)
        if saving:
            with watch.paused(), watchdog.while_growing(store.run / CHECKPOINTS):
                store.save(engine, progress, wait=ending)
            watchdog.beat(step)
        if ending:
            return (Ended.FINISHED if step == plan.total_steps else Ended.STOPPED), progress
    return Ended.FINISHED, progress


def train_step(engine: Engine, feed: InputPrefetcher, *, step: int, plan: RunPlan, key: tuple[int, int]) -> StepLosses:
    """One optimiser step: each micro-batch forward and backward; the engine updates on the last. key: seed, rank."""
    engine.set_lr(lr_at(step, plan))
    step_losses = StepLosses(torch.zeros((), dtype=torch.int64, device=engine.device))
    for micro_step, fed in enumerate(feed.step(plan.accumulation)):
        # what libraries draw by themselves (dropout); ours is keyed and needs no seed
        torch.manual_seed(key_of(*key, "library", step, micro_step) >> 1)
        with span("forward"):
            losses = engine(fed.inputs)
        with span("backward"):
            engine.backward(losses.total)
        with span("optimizer"):
            engine.step()
        step_losses.add(fed.batch, losses, share=1 / plan.accumulation)
    return step_losses


@dataclass
class StepLosses:
    """What the micro-batches of a step amount to on this rank."""

    mask_digest: Tensor  # i64 scalar on the device
    losses: dict[str, Tensor] = field(default_factory=dict)  # means over the micro-batches
    digest: int = 0
    substituted: int = 0

    def add(self, batch: Batch, losses: Losses, *, share: float) -> None:
        """Count one micro-batch; `share` is its part of the step."""
        for name, value in {"loss": losses.total, **losses.parts}.items():
            value = value.detach().float() * share
            self.losses[name] = self.losses[name] + value if name in self.losses else value
        for part in batch.parts:
            self.digest = add_digests(self.digest, part.digest)
            self.substituted += part.substituted
        if losses.digest is not None:
            self.mask_digest = self.mask_digest + losses.digest

    def to_stats(self, step: int, engine: Engine, *, wants_stop: bool, wrote: bool, lap: Lap | None) -> LocalStepStats:
        """What this rank tells the others of the step."""
        return LocalStepStats(
            step=step,
            losses=self.losses,
            grad_norm=engine.grad_norm(),
            skipped=engine.skipped(),
            mask_digest=self.mask_digest,
            digest=self.digest,
            substituted=self.substituted,
            wants_stop=wants_stop,
            wrote_snapshot=wrote,
            lap=lap,
        )
