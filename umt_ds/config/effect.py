"""Settings that a run gives and that change nothing in it. It says so when it starts, and `umt config` says so before.

Here is what a variant leaves behind (an ablation without UTA still has its recipe's teacher), so that it cannot be
refused. What nobody can mean is refused by `schema.py`, at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from umt_ds.config.deepspeed_json import load_deepspeed_json, precision_of
from umt_ds.config.schema import ImageTextConfig, RunConfig, Stage1Config, Stage2Config

Found = Iterator[tuple[str, str]]  # the key path of a setting or a section, and why it has no effect


def without_effect(run: RunConfig, *, on_gpu: bool = True) -> list[str]:
    """A sentence for each setting or section that was given, by whatever file or override, and does nothing."""
    given = set(_given(run, at_default=True))
    changed = set(_given(run, at_default=False))  # RUN/launch/config.yaml writes out every default
    found = [(given, one) for one in _of_task(run)]
    found += [(changed, one) for one in (*_of_data(run), *_of_running(run, on_gpu))]
    return [
        f"{path} has no effect here: {why}" for keys, (path, why) in found if any(_is_in(key, path) for key in keys)
    ]


def _given(value: Any, path: str = "", *, at_default: bool) -> Iterator[str]:
    """The key paths that somebody wrote. at_default: also those that were given the value of the schema's default."""
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


def _of_task(run: RunConfig) -> Found:
    match run.task:
        case Stage1Config(mask=mask):
            if mask.ratio == 0:
                yield "task.mask.kind", "task.mask.ratio=0 hides nothing"
        case Stage2Config() as task:
            yield from _of_losses(task)
            yield from _of_masks(run, task)
        case ImageTextConfig():
            pass


def _of_losses(task: Stage2Config) -> Found:
    weights = task.loss_weights
    if task.teacher is not None and not task.needs_teacher:
        yield "task.teacher", "nothing is compared with it (task.loss_weights.uta=0, task.align_projections=none)"
    elif task.teacher is not None and not weights.uta:
        for name in ("layers", "interval", "norm"):
            yield f"task.teacher.{name}", "task.loss_weights.uta=0, and only UTA aligns layers"
    if not weights.uta:
        yield "task.loss", "it is the loss of UTA, and task.loss_weights.uta=0"
    if not weights.vtc:
        yield "task.vtc.gather", "task.loss_weights.vtc=0"
    if not weights.vtc and not (weights.vtm and task.vtm.hard):
        for name in ("temperature", "bounds"):
            yield f"task.vtc.{name}", "no similarity counts (task.loss_weights.vtc=0, and no hard pairs for VTM)"
    if not weights.vtc and not weights.vtm:
        yield "task.vtc.positives", "no pairs count (task.loss_weights.vtc=0 and vtm=0)"
    if not weights.vtm:
        yield "task.vtm", "task.loss_weights.vtm=0"
    if not weights.mlm:
        yield "task.mlm", "task.loss_weights.mlm=0"


def _of_masks(run: RunConfig, task: Stage2Config) -> Found:
    shown = {source.media for source in run.data.sources.values()}
    if "video" not in shown:
        yield "task.student.frames", "an image has one frame, and no source has media: video"
    for medium, mask in (("image", task.mask.image), ("video", task.mask.video)):
        if mask is None:
            continue
        if medium not in shown:
            yield f"task.mask.{medium}", f"no source has media: {medium}"
        elif mask.ratio == 0:
            yield f"task.mask.{medium}.kind", "a ratio of 0 hides nothing"
        elif task.mask_of(medium) is None:
            yield (
                f"task.mask.{medium}",
                "semantic masks are for UTA, and task.loss_weights.uta=0: all is seen",
            )


def _of_data(run: RunConfig) -> Found:
    sources = run.data.sources
    if not any("://" in place for source in sources.values() for place in source.names):
        yield "data.cache", "it is for remote shards, and all are local"
    if all(source.is_stream for source in sources.values()):
        yield "data.window", "it is for indexed shards, and all are streamed"
    if len(sources) == 1:
        yield f"data.sources.{next(iter(sources))}.weight", "there is no other source"


def _of_running(run: RunConfig, on_gpu: bool) -> Found:
    has_both = len({source.media for source in run.data.sources.values()}) == 2
    if not has_both:
        yield "batch.media", "all sources hold the same medium"
    if not has_both or run.batch.media != "packed":
        yield "batch.pack", "it is for batch.media=packed, of sources of images and of clips"
    if run.engine.graph and isinstance(run.task, Stage2Config) and not run.task.needs_teacher:
        yield "engine.graph", "it replays the teacher, and there is none"
    for switch in ("graph", "ahead"):
        if getattr(run.engine, switch) and not on_gpu:
            yield f"engine.{switch}", "only a GPU gains by it, and this run is on CPUs"
    if run.cadence.max_skipped and precision_of(load_deepspeed_json(run.engine)) == "fp16":
        yield "cadence.max_skipped", "fp16's loss scale passes over gradients that overflow, up to 50 in a row"
    if run.init.resume_from is not None:
        yield "init.weights", "init.resume_from brings its own weights"
