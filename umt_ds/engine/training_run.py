"""What one rank of a run is made of, for the loop."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from umt_ds.config.batching import RunPlan
from umt_ds.config.running import CadenceConfig
from umt_ds.distributed.world import World
from umt_ds.engine.checkpoint import CheckpointStore
from umt_ds.engine.deepspeed import Engine
from umt_ds.engine.protocol import BatchSource, Task
from umt_ds.engine.report import Report
from umt_ds.engine.stop import Stop
from umt_ds.engine.watchdog import Watchdog
from umt_ds.evaluation.evaluator import Evaluator


@dataclass(frozen=True)
class TrainingRun:
    """Made once, before the first step; what changes in the course of a run is `Progress`."""

    task: Task
    engine: Engine
    loader: BatchSource
    store: CheckpointStore
    report: Report
    stop: Stop
    watchdog: Watchdog
    world: World
    plan: RunPlan
    cadence: CadenceConfig
    seed: int
    ahead: bool = False  # engine.ahead
    evaluators: Sequence[Evaluator] = ()
    judged_by_average: Collection[str] = ()  # names of evaluators that are given the averaged weights
    starts_from_weights: bool = False  # made elsewhere (init.weights): they are evaluated before the first step
    failed_before: Collection[int] = ()  # 0-based steps in which an earlier start met a NaN

    def evaluates_after(self, done: int) -> bool:
        """Is the run evaluated after so many steps? The same answer on every rank."""
        if not self.evaluators or not self.cadence.evaluate:
            return False
        if done == 0:
            return self.starts_from_weights
        return done % self.cadence.evaluate == 0 or done == self.plan.total_steps
