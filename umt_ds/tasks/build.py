"""From configuration to task and loader: one `match`, no registry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import torch

from umt_ds.batch import Media
from umt_ds.config.batching import RunPlan
from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.schema import (
    BertConfig,
    CacheConfig,
    ImageTextConfig,
    RunConfig,
    SourceConfig,
    Stage1Config,
    Stage2Config,
)
from umt_ds.data.collate import Tokenize
from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.order.media import check_pack, shares_of
from umt_ds.data.pixels.augment import ColorJitter
from umt_ds.data.shards.block_cache import BlockCache
from umt_ds.data.shards.records import load_manifest
from umt_ds.data.shards.storage import as_path, is_local
from umt_ds.data.shards.stream import Tars
from umt_ds.data.text import CaptionTokenizer
from umt_ds.distributed.world import World
from umt_ds.environment import temporary_folder
from umt_ds.errors import ConfigError
from umt_ds.losses.masked_lm import Vocabulary
from umt_ds.tasks.stage1.task import Stage1Task
from umt_ds.weights.folder import folder_of

if TYPE_CHECKING:
    from umt_ds.tasks.image_text.task import ImageTextTask  # loads open_clip
    from umt_ds.tasks.stage2.task import Stage2Task  # loads transformers


def build_task(
    config: RunConfig, *, device: torch.device, precision: Precision, pieces: int = 1
) -> Stage1Task | Stage2Task | ImageTextTask:
    """The task that `task.kind` names, with initial weights that are the same on every rank. pieces: of a `RunPlan`."""
    match config.task:
        case Stage1Config() as settings:
            return Stage1Task(settings, seed=config.seed, device=device, precision=precision)
        case Stage2Config() as settings:
            from umt_ds.tasks.stage2.task import Stage2Task

            return Stage2Task(
                settings,
                seed=config.seed,
                device=device,
                precision=precision,
                vocabulary=vocabulary_of(caption_tokenizer(settings.text)),
                pieces=pieces,
                shares=media_shares(config),
            )
        case ImageTextConfig() as settings:
            from umt_ds.tasks.image_text.task import ImageTextTask

            return ImageTextTask(settings, seed=config.seed, device=device)
        case _:
            assert_never(config.task)


def build_loader(config: RunConfig, plan: RunPlan, world: World, *, device: torch.device) -> Loader:
    """The loader of this rank, whose `device` finishes what the run leaves to it.

    Raises ConfigError where that device cannot.
    """
    frames, side = clip_shape(config)
    data = config.data
    if data.augment.on_device == "decode" and device.type != "cuda":
        raise ConfigError(
            f"data.augment.on_device=decode needs a CUDA device for nvJPEG, and this run is on {device.type}",
            hint="data.augment.on_device=nothing lets the workers decode",
        )
    if config.batch.media == "packed" and len({source.media for source in data.sources.values()}) > 1:
        check_pack(plan.chunk, config.batch.pack)
    jitter = data.augment.color_jitter
    loader_plan = LoaderPlan(
        seed=config.seed,
        global_draws=plan.draws_per_step,
        image_side=side,
        num_sample=data.num_sample,
        crop=data.augment.crop,
        scale=data.augment.scale,
        flip=data.augment.flip,
        jitter=ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter),
        antialias=data.augment.antialias,
        on_device=data.augment.on_device,
        media_mode=config.batch.media,
        pack=config.batch.pack,
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
    is_remote = any(not isinstance(spec.shards, Tars) and not is_local(spec.shards) for spec in specs)
    cache = build_cache(data.cache) if is_remote else None
    return Loader(specs, loader_plan, tokenize=_tokenizer(config), cache=cache, device=device)


def clip_shape(config: RunConfig) -> tuple[int, int]:
    """Frames per clip (an image has one) and side in pixels: what the task's model sees."""
    match config.task:
        case Stage1Config(student=student) | Stage2Config(student=student):
            return student.frames, student.image_size
        case ImageTextConfig(tower=tower):
            return 1, tower.image_size
        case _:
            assert_never(config.task)


def shards_of(source: SourceConfig) -> Path | Tars:
    """The folder of indexed shards, or what is streamed. Raises ConfigError where a library for its URL is missing."""
    return Tars(source.names, source.samples) if source.is_stream else as_path(source.names[0])


def sample_counts(config: RunConfig, *, wait: bool = False) -> dict[str, int | None]:
    """Samples by source, from their manifests; of a stream what the configuration says, which may be nothing.

    wait: for a folder that is not there.
    """
    shards = {name: shards_of(source) for name, source in config.data.sources.items()}
    return {
        name: there.samples if isinstance(there, Tars) else load_manifest(there, wait=wait).num_samples
        for name, there in shards.items()
    }


def count_samples(config: RunConfig, *, wait: bool = False) -> int:
    """Draws of an epoch: the samples of all sources, each as often as its `repeat`; 0 where that is unknown and the
    schedule does not ask. wait: as above.

    Raises ConfigError where it does ask.
    """
    counts = sample_counts(config, wait=wait)
    unknown = [name for name, count in counts.items() if count is None]
    if unknown and config.schedule.steps is None:
        raise ConfigError(
            f"data.sources.{unknown[0]} is streamed, so nobody knows how long an epoch is",
            hint=f"give data.sources.{unknown[0]}.samples=…, or schedule.steps=… and schedule.warmup_steps=…",
        )
    return 0 if unknown else round(sum(_draws(source, counts[name]) for name, source in config.data.sources.items()))


def _draws(source: SourceConfig, samples: int | None) -> float:
    """Draws of an epoch that a source has, of so many samples."""
    return (samples or 0) * source.repeat


def cache_folder(settings: CacheConfig) -> Path:
    """Where this node keeps parts of remote shards."""
    return settings.folder or temporary_folder() / f"umt-cache-{os.getuid()}"


def build_cache(settings: CacheConfig) -> BlockCache:
    """The cache of this node for remote shards."""
    return BlockCache(cache_folder(settings), max_bytes=int(settings.max_gb * 1e9))


def media_shares(config: RunConfig) -> dict[Media, float]:
    """The part of all views that each medium has. Raises ConfigError where nobody knows how large the sources are."""
    sources = config.data.sources
    media: list[Media] = [source.media for source in sources.values()]
    if len(set(media)) == 1:
        return {media[0]: 1.0}
    weights = [source.weight for source in sources.values()]
    sizes = sample_counts(config) if None in weights else {}
    known = [source.weight or _draws(source, sizes.get(name)) for name, source in sources.items()]
    return shares_of(media, known, mode=config.batch.media, pack=config.batch.pack)


def caption_tokenizer(text: BertConfig) -> CaptionTokenizer:
    """BERT's tokenizer of a run. Raises ConfigError where there is no vocabulary."""
    if text.vocabulary is not None:
        return CaptionTokenizer(text.vocabulary, max_tokens=text.max_tokens)
    assert isinstance(text.weights, Path), "the schema demands a vocabulary beside random weights"
    return CaptionTokenizer(folder_of(text.weights), max_tokens=text.max_tokens)


def vocabulary_of(tokenizer: CaptionTokenizer) -> Vocabulary:
    """What masking and BERT need to know of a tokenizer."""
    return Vocabulary(
        tokenizer.vocab_size,
        cls_id=tokenizer.cls_id,
        pad_id=tokenizer.pad_id,
        mask_id=tokenizer.mask_id,
        fingerprint=tokenizer.fingerprint,
    )


def _source(name: str, source: SourceConfig, frames: int) -> SourceSpec:
    count = 1 if source.media == "image" else frames
    policy = FramePolicy(source.frames.policy, count, source.frames.stride)
    return SourceSpec(
        name=name,
        shards=shards_of(source),
        frames=policy,
        weight=source.weight,
        repeat=source.repeat,
        media=source.media,
        caption=source.caption,
    )


def _tokenizer(config: RunConfig) -> Tokenize | None:
    match config.task:
        case Stage2Config(text=text, align_projections=align):
            tokenizer = caption_tokenizer(text)
            if align != "visual_text":
                return tokenizer
            from umt_ds.tasks.image_text.task import ClipToo

            return ClipToo(tokenizer)
        case ImageTextConfig(text=clip):
            from umt_ds.tasks.image_text.task import Tokenizer

            return Tokenizer(clip.context_length)
        case _:
            return None
