"""The sources of a run: where they lie, how many samples they have, which part of the views each medium has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from umt_ds.batch import Media
from umt_ds.config.data import CacheConfig, SourceConfig
from umt_ds.config.run import RunConfig
from umt_ds.data.order.segments import MixtureSchedule, Segment, lengths, segments_of, shares_over
from umt_ds.data.shards.block_cache import BlockCache
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.storage import as_path
from umt_ds.data.shards.stream import Tars
from umt_ds.environment import temporary_folder
from umt_ds.errors import ConfigError, DataError


def shards_of(source: SourceConfig) -> Path | Tars:
    """The folder of indexed shards, or what is streamed. Raises ConfigError where a library for its URL is missing."""
    return Tars(source.names, source.samples) if source.is_stream else as_path(source.names[0])


def first_clips(config: RunConfig) -> SourceConfig:
    """The first source of clips; of a run on images alone its first source."""
    sources = list(config.data.sources.values())
    return next((source for source in sources if source.media == "video"), sources[0])


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


def training_shards(config: RunConfig, *, hint: str) -> Path:
    """Where the first source of clips lies (of images, where a run has no clips). Raises DataError for a stream."""
    shards = shards_of(first_clips(config))
    if isinstance(shards, Tars):
        raise DataError("the run's clips are streamed", hint=hint)
    return shards


def held_out_beside(training: Path, names: Sequence[str], *, hint: str) -> Path:
    """The first of these folders that lies beside training shards. Raises DataError where none does."""
    folders = [training.parent / name for name in names]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise DataError(f"there are no held-out clips in {' or '.join(map(str, folders))}", hint=hint)


def cache_folder(settings: CacheConfig) -> Path:
    """Where this node keeps parts of remote shards."""
    return settings.folder or temporary_folder() / f"umt-cache-{os.getuid()}"


def build_cache(settings: CacheConfig) -> BlockCache:
    """The cache of this node for remote shards."""
    return BlockCache(cache_folder(settings), max_bytes=int(settings.max_gb * 1e9))


def media_shares(config: RunConfig) -> dict[Media, float]:
    """The part of all views of the run that each medium has. Raises ConfigError where nobody knows how large the
    sources are."""
    media: list[Media] = [source.media for source in config.data.sources.values()]
    if len(set(media)) == 1:
        return {media[0]: 1.0}
    steps = config.schedule.steps or 1  # in epochs there is one segment
    return shares_over(segments(config), media, steps=steps, mode=config.batch.media, pack=config.batch.pack)


def segments(config: RunConfig) -> tuple[Segment, ...]:
    """What the sources weigh, from which step on; without weights, their samples × repeat."""
    sources = config.data.sources
    sizes = sample_counts(config) if any(source.weight is None for source in sources.values()) else {}
    weights = {
        name: _draws(source, sizes.get(name)) if source.weight is None else source.weight
        for name, source in sources.items()
    }
    return segments_of(weights, config.data.changes)


@dataclass(frozen=True)
class SegmentDraws:
    """The draws of each source in the steps first … end-1 of a mixture that changes."""

    first: int
    end: int
    drawn: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.drawn.values())


def drawn_by_segment(config: RunConfig, *, steps: int) -> list[SegmentDraws]:
    """What the first `steps` steps of a run draw, segment by segment; nothing where its mixture does not change.

    Raises ConfigError for weights that leave a source without a draw.
    """
    if not config.data.segments:
        return []
    found, sources = segments(config), config.data.sources
    schedule = MixtureSchedule(
        found,
        [source.media for source in sources.values()],
        seed=config.seed,
        step_draws=config.batch.global_,
        mode=config.batch.media,
        pack=config.batch.pack,
        names=list(sources),
    )
    parts = []
    for segment, length in zip(found, lengths(found, steps=steps), strict=True):
        first, end = segment.step, segment.step + length
        before, after = (schedule.before(step * config.batch.global_) for step in (first, end))
        drawn = {name: b - a for name, a, b in zip(sources, before, after, strict=True)}
        parts += [SegmentDraws(first, end, drawn)] if length else []
    return parts
