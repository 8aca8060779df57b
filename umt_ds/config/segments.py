"""What a declared change of the mixture (`data.segments`) must not say, and what of it comes to nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from umt_ds.config.tasks.base import Remarks
from umt_ds.errors import ConfigError, shown, some

if TYPE_CHECKING:
    from umt_ds.config.run import RunConfig

_LAST_STEP = 10**9


def refuse_odd_segments(run: RunConfig) -> None:
    """Raises ConfigError, with the key, for a change that names what is not there, changes nothing or leaves nothing to
    draw; for sources whose shares nobody knows; and for a schedule in epochs."""
    data, at_start = run.data, {name: source.weight for name, source in run.data.sources.items()}
    if not data.segments:
        _refuse_never_drawn({name: weight != 0 for name, weight in at_start.items()})
        return
    for written in data.segments:
        _refuse_odd_step(written)
    if run.schedule.steps is None:
        raise ConfigError(
            "data.segments: it counts steps, and the schedule counts epochs, whose length is that of all sources "
            "whatever is drawn of them",
            hint="give schedule.steps and schedule.warmup_steps (`umt plan` says how many steps an epoch has)",
        )
    if without := [name for name, weight in at_start.items() if weight is None]:
        raise ConfigError(
            f"data.segments: {some(without)} has no weight, and a change of the mixture is a change of weights",
            hint=f"data.sources.{shown(without[0])}.weight=…, and so for each source: its samples × repeat is what it "
            "weighs without",
        )
    weights = {name: weight or 0.0 for name, weight in at_start.items()}
    ever = {name: weight > 0 for name, weight in weights.items()}
    if not any(weights.values()):
        raise ConfigError("data.sources: the weights are all 0, so the first step has nothing to draw")
    for step, change in data.changes.items():
        _refuse_odd_change(step, change, weights)
        weights |= change
        ever = {name: drawn or weights[name] > 0 for name, drawn in ever.items()}
    _refuse_never_drawn(ever)


def segments_without_effect(run: RunConfig) -> Remarks:
    """Changes that stand after the end of the run."""
    steps = run.schedule.steps
    for step in run.data.changes:
        if steps is not None and step >= steps:
            yield f"data.segments.{step}", f"the run ends after {steps} steps (schedule.steps)"


def _refuse_odd_step(step: str) -> None:
    # one way to write it, so that no step is there twice
    if not re.fullmatch(r"[1-9]\d*", step, re.ASCII) or int(step) > _LAST_STEP:
        raise ConfigError(
            f"data.segments: {shown(step)} is no step, which is a whole number from 1 to {_LAST_STEP}, without leading "
            "zeros",
            hint="what sources weigh from step 0 on, data.sources.NAME.weight says",
        )


def _refuse_odd_change(step: int, change: dict[str, float], before: dict[str, float]) -> None:
    at = f"data.segments.{step}"
    if unknown := [name for name in change if name not in before]:
        raise ConfigError(f"{at}.{shown(unknown[0])}: there is no such source", hint=f"data.sources has {some(before)}")
    if all(before[name] == weight for name, weight in change.items()):
        raise ConfigError(
            f"{at}: it changes nothing: {_told(before)} is what the sources weigh before it", hint=f"leave {at} out"
        )
    if not any((before | change).values()):
        raise ConfigError(f"{at}: it leaves every source without a draw", hint="give one of them a weight above 0")


def _refuse_never_drawn(ever: dict[str, bool]) -> None:
    for name, drawn in ever.items():
        if not drawn:
            raise ConfigError(
                f"data.sources.{shown(name)}.weight: 0, and nothing of it is ever drawn",
                hint="give it a weight above 0, leave the source out (null drops an inherited one), or give it a "
                f"weight from some step on: data.segments.STEP.{shown(name)}=1",
            )


def _told(weights: dict[str, float]) -> str:
    return ", ".join(f"{shown(name)} {weight:g}" for name, weight in weights.items())
