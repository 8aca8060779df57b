"""What RUN/metrics.jsonl tells: the training curve, where the run was resumed, and what ran twice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from umt_ds.engine.metrics_file import (
    COUNTS,
    MEASURES,
    METRICS,
    OddLines,
    Record,
    ScoresRecord,
    is_number,
    number_in,
    read_records,
    read_scores,
)
from umt_ds.engine.readback import is_file, why_no_run
from umt_ds.errors import ConfigError, UmtError


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
class ScorePoint:
    """One number of an evaluation. step: so many steps had been trained. left_out: items that it does not cover."""

    step: int
    value: float
    items: int
    left_out: int


@dataclass(frozen=True)
class ScoreCurve:
    """One metric of one evaluation over the steps, ascending; one point at least."""

    name: str  # NAME/METRIC
    points: tuple[ScorePoint, ...]

    @property
    def last(self) -> ScorePoint:
        return self.points[-1]

    @property
    def best(self) -> ScorePoint:
        """The largest among those that leave out fewest items (as `engine.best`); of equal ones the first."""
        return max(self.points, key=lambda point: (-point.left_out, point.value))


@dataclass(frozen=True)
class History:
    """The training records of a run. records: one a logged step, ascending; of steps that ran twice the later
    one. resumed_at: the first logged step of each attempt but the first. passed_over: which lines of the file are no
    records, in words, if there are any. scores: the finite numbers of evaluations; evaluation_s: seconds they took;
    protocols: of each evaluation, as it was last; by_type: its numbers for each type of item, none where it tells none
    apart."""

    records: tuple[Record, ...]
    resumed_at: tuple[int, ...]
    rerun: Rerun
    passed_over: str = ""
    scores: tuple[ScoreCurve, ...] = ()
    evaluation_s: float = 0.0
    protocols: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    by_type: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)

    @property
    def last(self) -> Record:
        return self.records[-1]

    @property
    def loss_names(self) -> list[str]:
        """`loss`, and of the other numbers that the task logs those that are not the same; a step may lack some."""
        logged = {name: None for record in self.records for name, value in record.items() if is_number(value)}
        names = [name for name in logged if name not in (*COUNTS, *MEASURES, "loss")]
        return ["loss", *(name for name in names if not _same(self.values(name), self.values("loss")))]

    def steps(self) -> list[int]:
        return [record["step"] for record in self.records]

    def values(self, name: str) -> list[float]:
        """One number a logged step; NaN where a record lacks it."""
        return [number_in(record, name) for record in self.records]


def read_history(run: Path) -> History:
    """Read RUN/metrics.jsonl. Raises UmtError where `run` is no run folder, or nothing was logged yet."""
    path, odd = run / METRICS, OddLines()
    if not is_file(path):
        raise ConfigError(why_no_run(run, METRICS), hint="name a folder that `umt train` wrote")
    by_step: dict[int, list[Record]] = {}
    first_steps: dict[int, int] = {}
    for record in read_records(path, odd):
        by_step.setdefault(record["step"], []).append(record)
        first_steps.setdefault(record["attempt"], record["step"])
    if not by_step:
        told = f" ({odd.told(path)})" if odd.count else ""
        raise UmtError(
            f"{run} has not logged a step yet{told}", hint="try again later; cadence.log says how often it logs"
        )
    scores = list(read_scores(path))
    return History(
        records=tuple(by_step[step][-1] for step in sorted(by_step)),
        resumed_at=tuple(first_steps[attempt] for attempt in sorted(first_steps)[1:]),
        rerun=_rerun({step: records for step, records in sorted(by_step.items()) if len(records) > 1}),
        passed_over=odd.told(path),
        scores=_curves(scores),
        evaluation_s=sum(found.seconds for found in scores if math.isfinite(found.seconds)),
        protocols={found.evaluation: found.protocol for found in scores},
        by_type={found.evaluation: found.by_type for found in scores},
    )


def _curves(scores: list[ScoresRecord]) -> tuple[ScoreCurve, ...]:
    """In the order in which the metrics first appear. Of an evaluation that ran twice at a step the later counts."""
    by_metric: dict[str, dict[int, ScorePoint]] = {}
    for found in scores:
        for metric, value in found.values.items():
            if math.isfinite(value):
                points = by_metric.setdefault(f"{found.evaluation}/{metric}", {})
                points[found.step] = ScorePoint(found.step, value, found.items, found.left_out)
    return tuple(ScoreCurve(name, tuple(points[step] for step in sorted(points))) for name, points in by_metric.items())


def _rerun(twice: dict[int, list[Record]]) -> Rerun:
    losses = [[x for record in records if math.isfinite(x := number_in(record, "loss"))] for records in twice.values()]
    return Rerun(
        steps=tuple(twice),
        different=tuple(step for step, records in twice.items() if len({r["digest"] for r in records}) > 1),
        largest_loss_difference=max((max(some) - min(some) for some in losses if some), default=0.0),
    )


def _same(one: list[float], other: list[float]) -> bool:
    """Equal numbers; what neither has is equal too."""
    return all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(one, other, strict=True))
