"""Settings that a run gives and that change nothing in it. The run names them when it starts, and so does `umt config`.

They are not refused, since a variant leaves them behind: an ablation without UTA still has its recipe's teacher. A
setting that no run of a task can honour is refused by `run.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from umt_ds.config.deepspeed_json import load_deepspeed_json, precision_of
from umt_ds.config.run import RunConfig
from umt_ds.config.segments import segments_without_effect
from umt_ds.config.tasks.base import Remarks


def without_effect(run: RunConfig, *, on_gpu: bool = True) -> list[str]:
    """A sentence for each setting or section that was given, by whatever file or override, and does nothing."""
    given = set(_given(run, at_default=True))
    changed = set(_given(run, at_default=False))  # RUN/launch/config.yaml writes out every default
    found = [(given, one) for one in run.task.without_effect(run)]
    found += [(changed, one) for one in (*_of_data(run), *_of_running(run, on_gpu))]
    return [
        f"{path} has no effect here: {why}" for keys, (path, why) in found if any(_is_in(key, path) for key in keys)
    ]


def _given(value: Any, path: str = "", *, at_default: bool) -> Iterator[str]:
    """The key paths that were written. at_default: also those that were given the value of the schema's default."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        inside = {
            fields[name].alias or name: getattr(value, name)
            for name in value.model_fields_set
            if at_default or getattr(value, name) != fields[name].default
        }
    elif isinstance(value, dict):
        inside = value
    else:
        yield path
        return
    for key, part in inside.items():
        yield from _given(part, f"{path}.{key}" if path else key, at_default=at_default)


def _is_in(key: str, path: str) -> bool:
    return key == path or key.startswith(f"{path}.")


def _of_data(run: RunConfig) -> Remarks:
    sources = run.data.sources
    if not any("://" in name for source in sources.values() for name in source.names):
        yield "data.cache", "it is for remote shards, and all are local"
    if all(source.is_stream for source in sources.values()):
        yield "data.window", "it is for indexed shards, and all are streamed"
    if len(sources) == 1:
        yield f"data.sources.{next(iter(sources))}.weight", "there is no other source"
    yield from segments_without_effect(run)


def _of_running(run: RunConfig, on_gpu: bool) -> Remarks:
    has_both = len({source.media for source in run.data.sources.values()}) == 2
    if not has_both:
        yield "batch.media", "all sources hold the same medium"
    if not has_both or run.batch.media != "packed":
        yield "batch.pack", "it is for batch.media=packed, of sources of images and of clips"
    for switch in ("graph", "ahead"):
        if getattr(run.engine, switch) and not on_gpu:
            yield f"engine.{switch}", "only a GPU gains by it, and this run is on CPUs"
    if run.schedule.curve == "constant":
        yield "optim.min_lr", "schedule.curve=constant does not fall"
    if run.cadence.max_skipped and precision_of(load_deepspeed_json(run.engine)) == "fp16":
        yield "cadence.max_skipped", "fp16's loss scale passes over gradients that overflow, up to 50 in a row"
    if not run.evaluations_in_training:
        yield "cadence.evaluate", "the run has no evaluation while it trains"
    if run.evaluations_in_training and not run.cadence.evaluate:
        yield "evaluation", "nothing is evaluated while it trains (cadence.evaluate is 0); `umt eval` uses it"
    if run.init.resume_from is not None:
        yield "init.weights", "init.resume_from brings its own weights"
    if run.init.weights is None or run.init.resume_from is not None:
        yield "init.ema", "no weights are taken from another run (init.weights)"
