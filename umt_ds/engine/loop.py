"""The loop: from progress to the end of the schedule. Read this first.

Nothing here knows what is learned (a `Task` does) or how the state is sharded (the `Engine` does).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from umt_ds.batch import Batch, Losses
from umt_ds.config.batching import RunPlan
from umt_ds.config.schema import CadenceConfig
from umt_ds.distributed.collectives import reduce_sum
from umt_ds.engine.checkpoint import CheckpointStore
from umt_ds.engine.deepspeed import Engine
from umt_ds.engine.guard import FiniteGuard
from umt_ds.engine.protocol import BatchSource, Ended, Progress, Task
from umt_ds.engine.report import Report
from umt_ds.engine.schedule import lr_at
from umt_ds.engine.speed import Stopwatch
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
    progress: Progress,
    plan: RunPlan,
    cadence: CadenceConfig,
    seed: int,
) -> tuple[Ended, Progress]:
    """Run from `progress` to `plan.total_steps`. All ranks call it; returns why it ended, and where."""
    guard = FiniteGuard(
        engine.device, draws_per_step=plan.draws_per_step, overflow_is_normal=engine.precision == "fp16"
    )
    watch = Stopwatch()
    tally = Tally(engine.device)
    while progress.step < plan.total_steps:
        tally.start_step()
        train_step(task, engine, loader, tally, watch, step=progress.step, plan=plan, seed=seed)
        guard.watch(progress.step, tally.losses["loss"], engine.grad_norm(), engine.step_applied())
        tally.skipped += not engine.step_applied()
        progress = progress.next(plan.draws_per_step)
        watch.count_step()
        stopping = stop.agreed(progress.step)
        watchdog.beat(progress.step)
        last = progress.step == plan.total_steps
        saving = progress.step % cadence.save == 0 or stopping or last
        logging = progress.step % cadence.log == 0 or stopping or last
        with watch.paused():
            store.commit_written()  # a snapshot that all ranks have written by now becomes a checkpoint
        if logging or saving:
            guard.check(before_raising=store.finish)  # before a save too: never keep poisoned weights
            progress, digest = tally.add_to(progress)
        if logging:
            report.step(progress, tally.losses, engine.grad_norm(), watch.lap(), digest)
        if saving:
            with watch.paused():
                store.save(engine, progress, wait=stopping or last)
            watchdog.beat(progress.step)
        if stopping and not last:
            return Ended.STOPPED, progress
    return Ended.FINISHED, progress


def train_step(
    task: Task,
    engine: Engine,
    loader: BatchSource,
    tally: Tally,
    watch: Stopwatch,
    *,
    step: int,
    plan: RunPlan,
    seed: int,
) -> None:
    """One optimiser step: each micro-batch forward and backward; the engine updates on the last."""
    engine.set_lr(lr_at(step, plan))
    for micro_step, batch in enumerate(watch.timed_data(loader.micro_batches(step))):
        # what libraries draw by themselves (dropout); ours is keyed and needs no seed
        torch.manual_seed(key_of(seed, "library", step, micro_step, int(batch.slots[0])) >> 1)
        inputs = task.prepare(batch, step)  # no gradient: teacher, mask
        losses = engine(inputs)
        engine.backward(losses.total)
        engine.step()
        tally.add(batch, losses, share=1 / plan.accumulation)


class Tally:
    """What the micro-batches of a step amount to on this rank, and what has not been shared yet."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.losses: dict[str, Tensor] = {}  # of the current step, means over its micro-batches
        self.skipped = 0  # steps since last shared
        self._step_digest = 0
        self._digest = 0
        self._substituted = 0
        self._mask_digest = torch.zeros((), dtype=torch.int64, device=device)

    def start_step(self) -> None:
        self.losses = {}
        self._step_digest = 0

    def add(self, batch: Batch, losses: Losses, *, share: float) -> None:
        """Count one micro-batch; `share` is its part of the step."""
        for name, value in {"loss": losses.total, **losses.parts}.items():
            value = value.detach().float() * share
            self.losses[name] = self.losses[name] + value if name in self.losses else value
        self._step_digest = add_digests(self._step_digest, batch.digest)
        self._digest = add_digests(self._digest, batch.digest)
        self._substituted += batch.substituted
        if losses.digest is not None:
            self._mask_digest = self._mask_digest + losses.digest

    def add_to(self, progress: Progress) -> tuple[Progress, int]:
        """Share with all ranks what was counted since the last call; also the digest of the current step."""
        counted = [
            _signed(self._step_digest),
            _signed(self._digest),
            int(self._mask_digest),
            self._substituted,
        ]
        step_digest, digest, mask_digest, substituted = reduce_sum(counted, self._device)
        progress = replace(
            progress,
            digest=add_digests(progress.digest, digest),
            mask_digest=add_digests(progress.mask_digest, mask_digest),
            substituted=progress.substituted + substituted,
            skipped=progress.skipped + self.skipped,
        )
        self.skipped = self._digest = self._substituted = 0
        self._mask_digest = torch.zeros_like(self._mask_digest)
        return progress, add_digests(step_digest)


def _signed(word: int) -> int:
    """A 64-bit word as torch's int64 holds it."""
    return word - (1 << 64) if word >= 1 << 63 else word
