"""What `umt bench step` prints: one measurement whole, or a line for each point of a sweep. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from umt_ds.bench.machine import aligned, spread
from umt_ds.whole_file import write_whole

PACKAGES = ("torch", "deepspeed", "triton", "flash_attn")  # for the header
# The parts of a step, in order: the spans of tasks/*/task.py and engine/loop.py, and what engine/speed.py adds.
PARTS = (
    "data", "host_to_device", "teacher", "mask", "regularisation", "forward", "backward", "optimizer", "communication",
)  # fmt: skip


@dataclass(frozen=True)
class Way:
    """One way to do the step. step_s and core_s: mean seconds of a step on the clock and of the process's cores, by
    round. memory: bytes that it needs on this rank."""

    step_s: list[float]
    core_s: list[float]
    memory: float
    first_loss: float
    flops: float  # that a clip costs this way
    student_flops: float  # of these, without the teacher's


@dataclass(frozen=True)
class StepReport:
    """A measurement, of rank 0 where there are several. FLOPs are of one clip with all of its masks."""

    about: dict[str, str]  # sentences by their title
    clips: int  # of this rank in a step
    peak_flops: float
    peak_origin: str
    on_cpu: bool
    parts: dict[str, float]  # seconds of a step, by name of the span
    top_ops: list[str]  # the profile's, if there is one
    published_flops: float
    ours: Way
    plain: Way | None = None
    same_mask_losses: tuple[float, float] | None = None  # ours and the reference's, with the same weights and mask

    def text(self) -> str:
        """All of it."""
        lines = [f"{title + ':':9}{sentence}" for title, sentence in self.about.items()]
        lines += ["", *aligned([["", "ours"], *self._rows()] if self.plain is None else self._two_columns())]
        lines += ["", *self._facts(), "", *self._budget()]
        if self.top_ops:
            lines += ["", "profile, of a step:", *self.top_ops]
        return "\n".join(lines)

    @property
    def ratios(self) -> list[float]:
        """How many times as fast as the reference, by round."""
        assert self.plain is not None
        return _ratios(self.plain.step_s, self.ours.step_s)

    def sweep_row(self) -> list[str]:
        """As `SWEEP_COLUMNS`."""
        return [
            *(spread for _, spread in self._speeds(self.ours)),
            "-" if self.plain is None else spread(self.ratios),
            f"{self.ours.first_loss:.4f}",
        ]

    def _rows(self) -> list[list[str]]:
        return [[title, value] for title, value in self._column(self.ours)]

    def _two_columns(self) -> list[list[str]]:
        assert self.plain is not None
        pairs = zip(self._column(self.ours), self._column(self.plain), strict=True)
        return [["", "ours", "plain twin"], *([title, mine, its] for (title, mine), (_, its) in pairs)]

    def _column(self, way: Way) -> list[tuple[str, str]]:
        core = [("core-s a step", spread(way.core_s))] if self.on_cpu else []
        mfu = ("MFU without the teacher's FLOPs, %", spread(self._mfu(way, way.student_flops), 1))
        without_teacher = [mfu] if way.student_flops < way.flops else []
        return [
            *self._speeds(way),
            *core,
            *without_teacher,
            ("GFLOP a clip", f"{way.flops / 1e9:,.1f}"),
            ("loss of the first step", f"{way.first_loss:.4f}"),
        ]

    def _speeds(self, way: Way) -> list[tuple[str, str]]:
        return [
            ("clips/s a device", spread([self.clips / s for s in way.step_s])),
            ("ms a step", spread([1e3 * s for s in way.step_s], 0 if median(way.step_s) > 0.1 else 2)),
            ("TFLOP/s a device", spread([self.clips * way.flops / s / 1e12 for s in way.step_s], 3)),
            ("MFU, %", spread(self._mfu(way, way.flops), 1)),
            ("memory, GB", f"{way.memory / 1e9:.3f}"),
        ]

    def _mfu(self, way: Way, flops: float) -> list[float]:
        return [100 * self.clips * flops / s / self.peak_flops for s in way.step_s]

    def _facts(self) -> list[str]:
        fewer = 1 - self.ours.flops / self.published_flops
        facts = [
            f"FLOPs: {self.ours.flops / 1e9:,.1f} G a clip, as published {self.published_flops / 1e9:,.1f} G: "
            f"{100 * fewer:.1f} % fewer by count",
            f"MFU: of {self.peak_flops / 1e12:,.3f} TFLOP/s ({self.peak_origin})",
            "memory: "
            + ("what the forward keeps for the backward" if self.on_cpu else "the most that was allocated at a time"),
        ]
        if self.same_mask_losses is not None:
            mine, its = self.same_mask_losses
            facts.append(f"same weights, same draws: loss {mine:.6f} and the twin's {its:.6f}")
        if self.plain is not None:
            facts.append(f"{spread(self.ratios, 3)} times as fast as the plain twin")
            if self.on_cpu:
                fewer_core_s = spread(_ratios(self.plain.core_s, self.ours.core_s), 3)
                facts.append(f"{fewer_core_s} times by core time, which changes less when others use the machine")
        return facts

    def _budget(self) -> list[str]:
        step_s = sum(self.ours.step_s) / len(self.ours.step_s)
        parts = {name: self.parts[name] for name in PARTS if name in self.parts}
        named = sum(parts.values())
        rows = [["budget", "ms", "% of a step"]]
        for name, seconds in {**parts, "in no part": step_s - named}.items():
            rows.append([name.replace("_", " "), f"{1e3 * seconds:,.2f}", f"{100 * seconds / step_s:.1f}"])
        return [*aligned(rows), budget_line(named, step_s)]


def budget_line(named_s: float, step_s: float) -> str:
    """How much of a step its parts explain, and whether that is enough."""
    line = f"sum of parts {100 * named_s / step_s:.1f} % of the step"
    return line if abs(named_s / step_s - 1) <= 0.03 else f"{line}: MORE THAN 3 % OFF, do not trust this budget"


SWEEP_COLUMNS = [
    "clips/s a device", "ms a step", "TFLOP/s a device", "MFU, %", "memory, GB", "x plain", "first loss",
]  # fmt: skip


def sweep_text(outcomes: Mapping[str, StepReport | str]) -> str:
    """A line for each point; a point without a report says why. What stands above is of the first that has one."""
    reports = [outcome for outcome in outcomes.values() if isinstance(outcome, StepReport)]
    about = [f"{title + ':':9}{sentence}" for title, sentence in reports[0].about.items()] if reports else []
    rows = [["(above: the first)", *SWEEP_COLUMNS]]
    rows += [[point, *o.sweep_row()] for point, o in outcomes.items() if isinstance(o, StepReport)]
    failed = [f"{point}: {outcome}" for point, outcome in outcomes.items() if isinstance(outcome, str)]
    return "\n".join([*about, "", *(aligned(rows) if reports else []), *failed])


# ---------------------------------------------------------------- between processes


def save_outcome(outcome: StepReport | str, path: Path) -> None:
    """For the process that started this one: a report, or why there is none."""
    content = {"failure": outcome} if isinstance(outcome, str) else asdict(outcome)
    write_whole(path, json.dumps(content))


def load_outcome(path: Path) -> StepReport | str:
    """What `save_outcome` wrote."""
    content: dict[str, Any] = json.loads(path.read_text())
    if "failure" in content:
        return str(content["failure"])
    ways = {name: Way(**content[name]) for name in ("ours", "plain") if content[name] is not None}
    losses = content["same_mask_losses"]
    return StepReport(**{**content, **ways, "same_mask_losses": None if losses is None else tuple(losses)})


# ---------------------------------------------------------------- text


def _ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(above, below, strict=True)]
