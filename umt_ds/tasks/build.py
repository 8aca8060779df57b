"""From configuration to task and loader: one `match`, no registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import torch

from umt_ds.config.batching import RunPlan
from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.schema import ImageTextConfig, RunConfig, SourceConfig, Stage1Config
from umt_ds.data.augment import ColorJitter
from umt_ds.data.collate import Tokenize
from umt_ds.data.frames import FramePolicy
from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec
from umt_ds.data.records import load_manifest
from umt_ds.distributed.world import World
from umt_ds.tasks.stage1 import Stage1Task

if TYPE_CHECKING:
    from umt_ds.tasks.image_text import ImageTextTask  # loads open_clip


def build_task(config: RunConfig, *, device: torch.device, precision: Precision) -> Stage1Task | ImageTextTask:
    """The task that `task.kind` names, with initial weights that are the same on every rank."""
    match config.task:
        case Stage1Config() as settings:
            return Stage1Task(settings, seed=config.seed, device=device, precision=precision)
        case ImageTextConfig() as settings:
            from umt_ds.tasks.image_text import ImageTextTask

            return ImageTextTask(settings, seed=config.seed, device=device)
        case _:
            assert_never(config.task)


def build_loader(config: RunConfig, plan: RunPlan, world: World) -> Loader:
    """The loader of this rank."""
    frames, side = clip_shape(config)
    data = config.data
    jitter = data.augment.color_jitter
    loader_plan = LoaderPlan(
        seed=config.seed,
        global_draws=plan.draws_per_step,
        image_side=side,
        num_sample=data.num_sample,
        crop=data.augment.crop,
        flip=data.augment.flip,
        jitter=ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter),
        window=data.window,
        skip_draws=data.skip_draws,
        micro=plan.micro,
        accumulation=plan.accumulation,
        rank=world.rank,
        world=world.size,
        num_workers=data.workers,
        max_bad_rate=data.max_bad_rate,
    )
    specs = [_source(name, source, frames) for name, source in data.sources.items()]
    return Loader(specs, loader_plan, tokenize=_tokenizer(config))


def clip_shape(config: RunConfig) -> tuple[int, int]:
    """Frames per clip and side in pixels: what the task's model sees."""
    match config.task:
        case Stage1Config(student=student):
            return student.frames, student.image_size
        case ImageTextConfig(tower=tower):
            return 1, tower.image_size
        case _:
            assert_never(config.task)


def count_samples(config: RunConfig) -> int:
    """Samples of all sources together, from their manifests."""
    return sum(load_manifest(source.shards).num_samples for source in config.data.sources.values())


def _source(name: str, source: SourceConfig, frames: int) -> SourceSpec:
    policy = FramePolicy(source.frames.policy, frames, source.frames.stride)
    return SourceSpec(name=name, folder=source.shards, frames=policy, weight=source.weight)


def _tokenizer(config: RunConfig) -> Tokenize | None:
    match config.task:
        case ImageTextConfig(text=text):
            from umt_ds.tasks.image_text import Tokenizer

            return Tokenizer(text.context_length)
        case _:
            return None
