"""What the evaluations of a run cost: clips that are looked at, nothing hidden, and the part of the run's time."""

from __future__ import annotations

import math
from collections.abc import Iterator

from umt_ds.config.evaluation import EvaluationConfig
from umt_ds.config.run import RunConfig
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.storage import as_path
from umt_ds.errors import UmtError


def evaluation_lines(
    run: RunConfig, *, samples: int, clips_per_s: float, step_s: float, pairs_per_s: float = math.inf
) -> Iterator[str]:
    """A line for each evaluation. samples: of the run's own data, 0 where unknown. clips_per_s: views of clips that all
    GPUs together look at; pairs_per_s: pairs of clip and text that they match in re-ranking, of which as many are
    counted as clips with one text each have. What is done with features afterwards is left out."""
    every = run.cadence.evaluate
    for name, settings in run.evaluation.items():
        clips = clips_of(settings, samples)
        if clips is None:
            yield f"{name}: of unknown size, its shards are not here and evaluation.{name}.limit is null"
            continue
        pairs = min(settings.pairs_a_clip, 2 * clips) * clips
        seconds = clips * settings.views * settings.looks / clips_per_s + pairs / pairs_per_s
        views = f" x {settings.views} views" if settings.views > 1 else ""
        again = f", read twice, and up to {pairs:,} pairs" if pairs else ""
        told = f"{name}: {clips:,} clips{views}{again} in {seconds:,.1f} s"
        if not settings.in_training:
            yield f"{told}, only by `umt eval`"
        elif every:
            between = step_s * every
            yield f"{told} after every {every:,} steps: {seconds / (seconds + between):.2%} of the time"
        else:
            yield f"{told}, only by `umt eval`: cadence.evaluate is 0"


def clips_of(settings: EvaluationConfig, samples: int) -> int | None:
    """Clips that an evaluation looks at; None where nobody knows."""
    sizes = [_size(shards) for shards in settings.places.values()]
    sizes += [samples or None] if settings.looks_at_training_clips else []
    bounds = [[bound for bound in (size, settings.limit) if bound is not None] for size in sizes]
    return sum(min(some) for some in bounds) if all(bounds) else None


def _size(shards: str) -> int | None:
    """Of a set, where it is here."""
    try:
        return load_manifest(as_path(shards)).num_samples
    except UmtError:
        return None
