"""What a plan says of the steps to come: the learning rate, and a mixture that changes."""

from __future__ import annotations

from contextlib import suppress
from typing import assert_never

from umt_ds.config.batching import RunPlan
from umt_ds.config.run import RunConfig
from umt_ds.errors import UmtError
from umt_ds.tasks.sources import drawn_by_segment, sample_counts


def lr_line(run: RunPlan) -> str:
    """The curve of the learning rate in words."""
    warm_up = f"{run.warmup_steps:,} steps of warm-up, then " if run.warmup_steps else ""
    return f"learning rate: {warm_up}{_after_warm_up(run)} (schedule.curve={run.lr_curve})"


def _after_warm_up(run: RunPlan) -> str:
    held = run.total_steps - run.warmup_steps - run.decay_steps
    match run.lr_curve:
        case "cosine_offset" | "cosine_floor":
            return f"{run.peak_lr:.3g}, a cosine down to {run.min_lr:.3g}"
        case "wsd":
            hold = f"{held:,} steps at {run.peak_lr:.3g}" if held else f"{run.peak_lr:.3g}"
            return f"{hold}, straight down to {run.min_lr:.3g} in the last {run.decay_steps:,}"
        case "constant":
            return f"{run.peak_lr:.3g} to the end"
        case _:
            assert_never(run.lr_curve)


def mixture_lines(config: RunConfig, run: RunPlan) -> list[str]:
    """Each segment of a mixture that changes, with its shares and, where the sources are here, how often each is shown
    whole in it; nothing of one that does not change. Raises ConfigError for weights that leave one without a draw."""
    sizes: dict[str, int | None] = {}
    with suppress(UmtError):  # the sources are not here
        sizes = sample_counts(config)
    return [
        f"steps {part.first:,} to {part.end - 1:,}: "
        + ", ".join(_share(name, count, part.total, sizes.get(name)) for name, count in part.drawn.items())
        for part in drawn_by_segment(config, steps=run.total_steps)
    ]


def _share(name: str, drawn: int, of: int, size: int | None) -> str:
    passes = f" ({drawn / size:.3g} passes)" if size and drawn else ""
    return f"{name} {100 * drawn / of:.3g} %{passes}"
