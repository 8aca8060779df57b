"""What RUN/metrics.jsonl tells: the training curve, where the run was resumed, and what ran twice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umt_ds.engine.report import METRICS, read_records
from umt_ds.errors import UmtError

Record = dict[str, Any]

# Records hold these beside the losses, see `engine.report`.
_NOT_LOSSES = {
    "step", "draws", "epoch", "attempt", "lr", "grad_norm", "clips_per_s", "clips_per_s_per_device",
    "data_stall_percent", "data_stall_rank", "slowest_rank", "slowest_rank_ms", "mfu_percent", "gflops_per_clip",
    "peak_memory_gib", "bad_samples", "skipped_steps",
}  # fmt: skip


@dataclass(frozen=True)
class Rerun:
    """Logged steps that ran more than once: a killed run repeats what came after its last checkpoint."""

    steps: tuple[int, ...]
    different: tuple[int, ...]  # those of `steps` whose digests differ: other clips were shown
    largest_loss_difference: float

    def __str__(self) -> str:
        if not self.steps:
            return "No logged step ran twice."
        span = f"{len(self.steps)} logged steps ran twice (steps {self.steps[0]} to {self.steps[-1]}, after a kill)"
        if self.different:
            some = ", ".join(str(step) for step in self.different[:5])
            return (
                f"{span}: THE DIGESTS OF {len(self.different)} DIFFER (steps {some}): they did not see the same clips."
            )
        return f"{span}: all digests are equal; the losses differ by at most {self.largest_loss_difference:.2g}."


@dataclass(frozen=True)
class History:
    """The training records of a run. records: one a logged step, ascending; of steps that ran twice the later
    one. resumed_at: the first logged step of each attempt but the first."""

    records: tuple[Record, ...]
    resumed_at: tuple[int, ...]
    rerun: Rerun

    @property
    def last(self) -> Record:
        return self.records[-1]

    @property
    def loss_names(self) -> list[str]:
        """`loss`, and of the other numbers that the task logs those that are not the same; a step may lack some."""
        logged = {name: None for record in self.records for name, value in record.items() if _is_number(value)}
        names = [name for name in logged if name not in _NOT_LOSSES]
        return ["loss", *(name for name in names if self.values(name) != self.values("loss"))]

    def steps(self) -> list[int]:
        return [record["step"] for record in self.records]

    def values(self, name: str) -> list[float]:
        """One number a logged step; NaN where a record lacks it."""
        return [float(record.get(name, math.nan)) for record in self.records]


def read_history(run: Path) -> History:
    """Read RUN/metrics.jsonl. Raises UmtError where `run` is no run folder, or nothing was logged yet."""
    path = run / METRICS
    if not path.is_file():
        raise UmtError(f"{run} is no run folder: it has no {METRICS}", hint="name a folder that `umt train` wrote")
    written = [record for record in read_records(path) if "digest" in record]
    if not written:
        raise UmtError(f"{run} has not logged a step yet", hint="try again later; cadence.log says how often it logs")
    by_step: dict[int, list[Record]] = {}
    for record in written:
        by_step.setdefault(record["step"], []).append(record)
    first_steps: dict[int, int] = {}
    for record in written:
        first_steps.setdefault(record["attempt"], record["step"])
    return History(
        records=tuple(by_step[step][-1] for step in sorted(by_step)),
        resumed_at=tuple(first_steps[attempt] for attempt in sorted(first_steps)[1:]),
        rerun=_rerun({step: records for step, records in sorted(by_step.items()) if len(records) > 1}),
    )


def _rerun(twice: dict[int, list[Record]]) -> Rerun:
    losses = [[record["loss"] for record in records] for records in twice.values()]
    return Rerun(
        steps=tuple(twice),
        different=tuple(step for step, records in twice.items() if len({r["digest"] for r in records}) > 1),
        largest_loss_difference=max((max(some) - min(some) for some in losses), default=0.0),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
