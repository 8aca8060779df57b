"""From the configuration of a run to the loader of a rank."""

from __future__ import annotations

from dataclasses import replace

import torch

from umt_ds.config.batching import RunPlan
from umt_ds.config.data import SourceConfig
from umt_ds.config.lone_rows import refuse_lone_rows
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.base import TaskSettings
from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.order.media import check_pack
from umt_ds.data.pixels.augment import ColorJitter
from umt_ds.data.pixels.rand_augment import parse_rand_augment
from umt_ds.data.shards.storage import is_local
from umt_ds.data.shards.stream import Tars
from umt_ds.distributed.world import World
from umt_ds.errors import ConfigError
from umt_ds.tasks.kinds import answer_tokenizer_of, num_classes_of, tokenizer_of
from umt_ds.tasks.sources import build_cache, media_shares, shards_of


def build_loader(config: RunConfig, plan: RunPlan, world: World, *, device: torch.device) -> Loader:
    """The loader of this rank, whose `device` finishes what the run leaves to it.

    Raises ConfigError where that device cannot.
    """
    data = config.data
    if data.augment.on_device == "decode" and device.type != "cuda":
        raise ConfigError(
            f"data.augment.on_device=decode needs a CUDA device for nvJPEG, and this run is on {device.type}",
            hint="data.augment.on_device=nothing lets the workers decode",
        )
    check_media(config, plan)
    specs = source_specs(config)
    is_remote = any(not isinstance(spec.shards, Tars) and not is_local(spec.shards) for spec in specs)
    return Loader(
        specs,
        replace(plan_loader(config, plan, world), num_classes=num_classes_of(config)),
        tokenize=tokenizer_of(config),
        tokenize_answers=answer_tokenizer_of(config),
        label_field=config.task.label_field,
        cache=build_cache(data.cache) if is_remote else None,
        device=device,
    )


def check_media(config: RunConfig, plan: RunPlan) -> None:
    """Raises ConfigError where images and clips cannot be packed into the micro-batches of a run, or where one of the
    two has a single row there and the task compares rows."""
    if config.batch.media != "packed" or len({source.media for source in config.data.sources.values()}) < 2:
        return
    check_pack(plan.chunk, config.batch.pack)
    for medium, share in media_shares(config).items():
        rows = round(share * plan.micro)
        refuse_lone_rows(config.task, of_rank=rows, of_all=rows * plan.world, medium=f" of {medium}s (batch.pack)")


def plan_loader(config: RunConfig, plan: RunPlan, world: World) -> LoaderPlan:
    """What the loader of this rank is told; not how many classes there are, which the sets may say."""
    data = config.data
    jitter = data.augment.color_jitter
    return LoaderPlan(
        seed=config.seed,
        global_draws=plan.draws_per_step,
        image_side=config.task.clip_shape.side,
        num_sample=data.num_sample,
        crop=data.augment.crop,
        scale=data.augment.scale,
        filter=data.augment.filter,
        rand_augment=parse_rand_augment(data.augment.rand_augment) if data.augment.rand_augment else None,
        flip=data.augment.flip,
        jitter=ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter),
        antialias=data.augment.antialias,
        on_device=data.augment.on_device,
        media_mode=config.batch.media,
        pack=config.batch.pack,
        segments=data.changes,
        window=data.window,
        skip_draws=data.skip_draws,
        micro=plan.micro,
        accumulation=plan.accumulation,
        rank=world.rank,
        world=world.size,
        num_workers=data.workers,
        max_bad_rate=data.max_bad_rate,
        max_gap=data.cache.max_gap_kb << 10,
    )


def source_specs(config: RunConfig) -> list[SourceSpec]:
    """What the loader of a run is told of its sources."""
    return [_source_spec(name, source, config.task) for name, source in config.data.sources.items()]


def _source_spec(name: str, source: SourceConfig, task: TaskSettings) -> SourceSpec:
    count = 1 if source.media == "image" else task.clip_shape.frames
    policy = FramePolicy(source.frames.policy, count, source.frames.stride)
    return SourceSpec(
        name=name,
        shards=shards_of(source),
        frames=policy,
        weight=source.weight,
        repeat=source.repeat,
        media=source.media,
        caption=task.text_field or source.caption,
    )
