"""Did two runs show the same clips under the same masks, and compute the same numbers?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from umt_ds.engine.manifest import sources_not_reproducible
from umt_ds.engine.metrics_file import METRICS, OddLines, read_metrics
from umt_ds.engine.readback import is_file, why_no_run
from umt_ds.errors import ConfigError
from umt_ds.report.compare_checkpoints import compare_checkpoints

Record = Mapping[str, Any]

# In this order, so that the first difference of a step is the cause and not what follows from it.
_MEANING = {
    "draws": "another number of clips was drawn so far (batch.global)",
    "digest": "other clips or other frames were shown in this step",
    "digest_total": "other clips or other frames were shown in an earlier step",
    "mask_digest_total": "the clips are the same, but other masks (in fine-tuning: other boxes to erase, other mixing) "
    "were drawn since the last step that agrees",
    "lr": "same clips and masks, but another learning rate: the schedule differs",
    "loss": "same clips, masks and learning rate, but other numbers",
    "grad_norm": "the same loss, but other gradients",
}
_TO_ROUNDING = ("loss", "grad_norm")  # they depend on the order of sums: on the number of ranks, on the machine

Verdict = Literal["bit-equal", "within rtol", "different"]


@dataclass(frozen=True)
class Difference:
    """The first field of the first step that differs; None: that run did not log it."""

    step: int
    field: str
    a: str | float | None  # "nan", "inf": JSON has no such numbers
    b: str | float | None
    meaning: str


@dataclass(frozen=True)
class Comparison:
    """What the logged steps that two runs have in common say."""

    rtol: float
    common_steps: int
    bit_equal: int
    within_rtol: int
    different: int
    only_in_a: int
    only_in_b: int
    largest_relative_difference: float  # of loss and gradient norm
    first_difference: Difference | None
    inexact: tuple[str, ...] = ()  # sources that one of the runs streamed
    passed_over: tuple[str, ...] = ()  # which lines of whose file are no records, in words
    checkpoints: str = ""  # what of the state after the newest common step is equal, in words

    def text(self, names: tuple[str, str] = ("A", "B")) -> str:
        """In a few lines. names: what they call the two runs."""
        a, b = names
        lines = [f"{self.bit_equal + self.within_rtol} of {self.common_steps} common steps agree: "]
        lines[0] += f"{self.bit_equal} bit for bit, {self.within_rtol} within rtol {self.rtol:g}"
        if self.largest_relative_difference:
            lines[0] += f" (losses and norms differ by at most {self.largest_relative_difference:.2g})"
        if self.only_in_a or self.only_in_b:
            lines.append(f"steps that only one of them logged: {self.only_in_a} in {a}, {self.only_in_b} in {b}")
        if (first := self.first_difference) is not None:
            lines.append(f"first difference: step {first.step}, {first.field}: {first.a} in {a}, {first.b} in {b}")
            lines.append(f"it means: {first.meaning}")
        if self.inexact:
            lines.append(f"streamed, so no two runs show the same clips: {', '.join(self.inexact)}")
        lines += [self.checkpoints] if self.checkpoints else []
        lines += self.passed_over
        return "\n".join(lines)


def compare_records(a: Mapping[int, Record], b: Mapping[int, Record], *, rtol: float) -> Comparison:
    """Compare the steps that both have. a, b: the records of a run by step, as `read_metrics` gives them.

    Draws, digests and learning rate must be equal, loss and gradient norm to `rtol` of the larger. What both lack is
    equal, and so is NaN in both.
    """
    common = sorted(a.keys() & b.keys())
    verdicts: list[Verdict] = []
    first, largest = None, 0.0
    for step in common:
        one, other = a[step], b[step]
        unequal = [name for name in _MEANING if not _same(one.get(name), other.get(name))]
        wrong = [name for name in unequal if not _equal_to_rounding(name, one, other, rtol)]
        verdicts.append("different" if wrong else "within rtol" if unequal else "bit-equal")
        largest = max([largest, *(_distance(one[n], other[n]) for n in _TO_ROUNDING if n in one and n in other)])
        if wrong and first is None:
            name = wrong[0]
            first = Difference(step, name, _strict(one.get(name)), _strict(other.get(name)), _MEANING[name])
    return Comparison(
        rtol=rtol,
        common_steps=len(common),
        bit_equal=verdicts.count("bit-equal"),
        within_rtol=verdicts.count("within rtol"),
        different=verdicts.count("different"),
        only_in_a=len(a) - len(common),
        only_in_b=len(b) - len(common),
        largest_relative_difference=largest,
        first_difference=first,
    )


def _equal_to_rounding(name: str, one: Record, other: Record, rtol: float) -> bool:
    """A number that only one run has (the norm of a step that fp16 skipped) is a difference."""
    if name not in _TO_ROUNDING or name not in one or name not in other:
        return False
    return math.isclose(one[name], other[name], rel_tol=rtol)


def _same(one: object, other: object) -> bool:
    return one == other or (one != one and other != other)  # NaN alone differs from itself


def _distance(one: float, other: float) -> float:
    """Relative to the larger, of finite numbers; 0 where one is not finite: how far NaN is nobody can say."""
    if one == other or not math.isfinite(one) or not math.isfinite(other):
        return 0.0
    return abs(one / 2 - other / 2) / max(abs(one), abs(other)) * 2


def _strict(value: Any) -> Any:
    """As JSON can say it."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def compare_runs(a: Path, b: Path, *, rtol: float, names: tuple[str, str] = ("A", "B")) -> Comparison:
    """Compare two run folders by their metrics.jsonl. names: what `checkpoints` calls them. Raises ConfigError where
    they have no logged step in common."""
    records, passed_over = [], []
    for run in (a, b):
        path, odd = run / METRICS, OddLines()
        if not is_file(path):
            raise ConfigError(why_no_run(run, METRICS), hint="name folders that `umt train` wrote")
        records.append(read_metrics(run, odd))
        passed_over += [odd.told(path)] if odd.count else []
    comparison = compare_records(records[0], records[1], rtol=rtol)
    if comparison.common_steps == 0:
        told = "".join(f"; {sentence}" for sentence in dict.fromkeys(passed_over))
        raise ConfigError(
            f"nothing to compare: {a} logged {len(records[0])} steps and {b} {len(records[1])}, none of them in both"
            f"{told}",
            hint="train further; or log both runs at the same steps (cadence.log)",
        )
    streamed = {name for run in (a, b) for name in sources_not_reproducible(run)}
    return replace(
        comparison,
        inexact=tuple(sorted(streamed)),
        passed_over=tuple(dict.fromkeys(passed_over)),
        checkpoints=compare_checkpoints(a, b, names=names),
    )
