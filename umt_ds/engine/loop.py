"""The loop: from progress to the end of the schedule. Read this first.

The loop does not know what is learned (a `Task` does), how the state is sharded (the `Engine` does), or what is scored
(an `Evaluator` does). The host works one step ahead of the device: while the device computes step 7, the host prepares
step 8, and only then reads the loss of step 7 (`step_stats`). Before a save the host waits until it has read them all.

Steps are counted from 0, so `step` is the number of steps before it; `done` is that number when it has ended. Keys,
learning rates and messages name `step`; progress, cadences and checkpoints count `done`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from umt_ds.batch import Batch, Losses
from umt_ds.config.batching import RunPlan
from umt_ds.engine.deepspeed import Engine
from umt_ds.engine.evaluations import evaluate, missing_evaluations
from umt_ds.engine.guard import FiniteGuard
from umt_ds.engine.manifest import CHECKPOINTS
from umt_ds.engine.prefetch import InputPrefetcher
from umt_ds.engine.protocol import Ended, Progress
from umt_ds.engine.schedule import lr_at
from umt_ds.engine.speed import Lap, Stopwatch, span
from umt_ds.engine.step_stats import LocalStepStats, StepStatsReducer
from umt_ds.engine.training_run import TrainingRun
from umt_ds.keyed import add_digests, key_of


def train(run: TrainingRun, progress: Progress) -> tuple[Ended, Progress]:
    """Run from `progress` to `plan.total_steps`. All ranks call it; returns why it ended, and where."""
    engine, plan, cadence = run.engine, run.plan, run.cadence
    guard = FiniteGuard(
        draws_per_step=plan.draws_per_step,
        overflow_is_normal=engine.precision == "fp16",
        max_skipped=cadence.max_skipped,
        failed_before=run.failed_before,
    )
    reducer, watch = StepStatsReducer(run.world, engine.device), Stopwatch(engine.device)
    inputs = InputPrefetcher(run.task, run.loader, watch, first=progress.step, device=engine.device, ahead=run.ahead)
    laps: dict[int, Lap] = {}  # of logged steps whose numbers were not read yet

    # Before the first step: evaluate weights made elsewhere, and what an earlier job left unevaluated.
    if missing := missing_evaluations(run, progress.step):
        if progress.step:
            _save(run, progress, wait=True)  # nothing to do, unless it goes on from another run's checkpoint
        if not evaluate(run, progress, missing, watch):
            return Ended.STOPPED, progress

    for step in range(progress.step, plan.total_steps):
        # Train: hand the work of a step to the device.
        losses = train_step(engine, inputs, step=step, plan=plan, key=(run.seed, run.world.rank))
        watch.count_step()
        done = step + 1

        # Decide what follows it. Every rank decides the same.
        evaluating = run.evaluates_after(done)
        ending = done == plan.total_steps or run.stop.is_due(done)
        saving = ending or evaluating or done % cadence.save == 0
        if saving or done % cadence.log == 0:
            laps[done] = watch.lap()

        # Read what the steps before it came to, on all ranks together; before a save this step's numbers too.
        reducer.submit(
            losses.to_stats(
                done, engine, wants_stop=run.stop.wanted(), wrote=run.store.has_written(), lap=laps.get(done)
            )
        )
        global_stats = reducer.collect(now=saving)
        stop_wished = any(stats.wants_stop for stats in global_stats)
        if stop_wished:  # on some rank, a step ago: the job ends after this step
            ending = saving = True
            laps.setdefault(done, watch.lap())
            global_stats += reducer.collect(now=True)

        # Check and log them.
        for stats in global_stats:
            guard.check(stats, skipped_before=progress.skipped, before_raising=run.store.finish)
            progress = progress.after(stats, plan.draws_per_step)
            if stats.step in laps:
                run.report.step(progress, stats, laps.pop(stats.step))
            if stats.wrote_snapshot:
                with watch.paused():
                    run.store.finish()
        run.watchdog.beat(done)

        # Save. A checkpoint that is evaluated, or is the last one of this job, is whole before anything else happens.
        if saving:
            with watch.paused():
                _save(run, progress, wait=ending or evaluating)

        # Evaluate. Where a stop was wished, the next start does it.
        evaluated = not evaluating or (not stop_wished and evaluate(run, progress, run.evaluators, watch))

        if ending or not evaluated:
            finished = done == plan.total_steps and evaluated
            return (Ended.FINISHED if finished else Ended.STOPPED), progress
    return Ended.FINISHED, progress


def _save(run: TrainingRun, progress: Progress, *, wait: bool) -> None:
    with run.watchdog.while_growing(run.store.run / CHECKPOINTS):
        run.store.save(run.engine, progress, wait=wait)


def train_step(
    engine: Engine, inputs: InputPrefetcher, *, step: int, plan: RunPlan, key: tuple[int, int]
) -> StepLosses:
    """One optimiser step: forward and backward of each micro-batch; the weights change at the last one.

    step: counted from 0. key: (seed, rank).
    """
    engine.set_lr(lr_at(step, plan))
    step_losses = StepLosses(torch.zeros((), dtype=torch.int64, device=engine.device))
    for micro_step, prepared in enumerate(inputs.step(plan.accumulation)):
        # for libraries that draw from torch's generator (dropout of BERT); what we draw is keyed
        torch.manual_seed(key_of(*key, "library", step, micro_step) >> 1)
        with span("forward"):
            losses = engine(prepared.inputs)
        with span("backward"):
            engine.backward(losses.total)
        with span("optimizer"):
            engine.step()
        step_losses.add(prepared.batch, losses, share=1 / plan.accumulation)
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
