"""What an evaluation will read and compute, from settings and manifests alone. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from umt_ds.config.deepspeed_json import load_deepspeed_json, precision_of
from umt_ds.config.evaluation import EvaluationConfig
from umt_ds.config.run import RunConfig
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.storage import as_path
from umt_ds.jobs.eval_runs import EvalRun, first_source


@dataclass(frozen=True)
class PlannedSet:
    """A set that an evaluation reads. role: the setting that names it."""

    role: str
    shards: str
    items: int  # that are looked at
    of: int  # that are there
    passes: int  # batches through the model, of all ranks together

    def passes_of_a_rank(self, ranks: int) -> int:
        """Forward passes that each rank makes."""
        return ceil(self.passes / ranks)


def sets_of(config: RunConfig, settings: EvaluationConfig) -> list[PlannedSet]:
    """The sets of an evaluation of a run. Raises DataError where one is not there."""
    return [
        PlannedSet(role, shards, items, count, ceil(items / settings.clips_a_pass))
        for role, shards in _named(config, settings)
        for count in [load_manifest(as_path(shards)).num_samples]
        for items in [min(settings.limit or count, count)]
    ]


def _named(config: RunConfig, settings: EvaluationConfig) -> Iterator[tuple[str, str]]:
    if settings.looks_at_training_clips and (source := first_source(config)):
        yield "voters", source
    yield from settings.places.items()


def plan_text(runs: Sequence[EvalRun], ranks: int) -> str:
    """What would be evaluated, a paragraph a run. Raises ConfigError and DataError for what is not there."""
    return "\n".join(line for run in runs for line in _lines(run, ranks))


def _lines(run: EvalRun, ranks: int) -> Iterator[str]:
    config = run.config
    precision = precision_of(load_deepspeed_json(config.engine))
    yield f"{run.name}: {config.task.summary}"
    yield f"  weights {run.weights}, {precision}"
    frames, side = config.task.clip_shape
    for name, settings in config.evaluation.items():
        for one in sets_of(config, settings):
            share = f", {one.passes_of_a_rank(ranks)} on each of {ranks} ranks" if ranks > 1 else ""
            views = f"{settings.views} view{'s' * (settings.views > 1)} each"
            together = settings.clips_a_pass * settings.views
            kind = f"{settings.kind}, averaged weights" if settings.ema else settings.kind
            yield (
                f"  {name} ({kind}): {one.role} {one.shards}, {one.items} of {one.of} items, "
                f"{views} ({frames} frames of {side} px); {one.passes} forward passes of {together}{share}"
            )
            if settings.pairs_a_clip:
                yield _reranking(settings, one)


def _reranking(settings: EvaluationConfig, one: PlannedSet) -> str:
    """Items that share a clip, and pairs that a clip and a text both want, make it less; several texts a clip more."""
    candidates = min(settings.pairs_a_clip // 2, one.items)
    near = f"{candidates:,} texts for each clip and {candidates:,} clips for each text"
    return (
        f"    re-ranking: the clips are read and encoded once more; {near} go through the fusion layers: "
        f"up to {2 * candidates * one.items:,} pairs where each item has a text of its own"
    )
