"""The loader: the micro-batches of any step, for any rank, as a function of the step.

Order, mixture, frames, crops and captions are pure functions of (seed, draw number), so the whole
state of the loader is the number of the step. Ranks, accumulation and workers only cut the same
sequence of draws into pieces:

    step s       draws [s·G, (s+1)·G)
    micro-batch  rank r, accumulation step a: the b draws from s·G + (a·R + r)·b on
    worker       builds whole micro-batches; they come back in order

Streamed tars (`stream.py`) are the exception: a draw shows what comes next.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from umt_ds.batch import Batch, Media
from umt_ds.data.augment import NO_JITTER, ColorJitter, CropKind, training_view
from umt_ds.data.block_cache import BlockCache
from umt_ds.data.clips import Clip, ClipSource, caption_of, label_of, read_clip
from umt_ds.data.collate import Shown, Tokenize, collate
from umt_ds.data.faults import MAX_SUBSTITUTES, Fault, FaultLog, candidates, first_good
from umt_ds.data.frames import FramePolicy
from umt_ds.data.mixture import Mixture
from umt_ds.data.order import Order
from umt_ds.data.pipeline import Pipeline, batch_memory
from umt_ds.data.remote import Traffic
from umt_ds.data.source import ShardSource
from umt_ds.data.stream import Tars, TarStream
from umt_ds.errors import ConfigError
from umt_ds.keyed import Stream, key_of

log = logging.getLogger(__name__)
Ref = TypeVar("Ref")


@dataclass(frozen=True)
class SourceSpec:
    """One folder of shards, or a stream, in the mixture. `weight`: share of the draws; None: its number of samples."""

    name: str
    shards: Path | Tars
    frames: FramePolicy
    weight: float | None = None
    media: Media = "video"


@dataclass(frozen=True)
class LoaderPlan:
    """How draws become batches. The first block says what the run sees, the second only how it runs."""

    seed: int
    global_draws: int  # G: draws per optimiser step, over all ranks
    image_side: int
    num_sample: int = 1  # views of each drawn clip (repeated augmentation)
    crop: CropKind = "multi_scale"
    flip: bool = True
    jitter: ColorJitter = NO_JITTER
    window: int = 16  # shards shuffled together
    skip_draws: tuple[tuple[int, int], ...] = ()  # ranges [a, b) that show a substitute instead of their sample

    micro: int = 1  # b: draws per micro-batch and rank
    accumulation: int = 1
    rank: int = 0
    world: int = 1
    num_workers: int = 0
    prefetch: int = 2  # micro-batches each worker builds ahead
    max_bad_rate: float = 0.01
    stall_limit_s: float = 900.0

    def __post_init__(self) -> None:
        product = self.micro * self.accumulation * self.world
        if self.global_draws != product or product < 1:
            raise ConfigError(
                f"global_draws={self.global_draws} is not micro × accumulation × world = "
                f"{self.micro} × {self.accumulation} × {self.world}"
            )
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"rank {self.rank} is not one of {self.world}")
        if min(self.image_side, self.num_sample, self.window, self.prefetch) < 1 or self.num_workers < 0:
            raise ConfigError(f"{self}: image_side, num_sample, window and prefetch must be at least 1")
        if bad := [span for span in self.skip_draws if not 0 <= span[0] < span[1]]:
            raise ConfigError(f"skip_draws {bad}: each range is [a, b) with 0 ≤ a < b")

    def first_draw(self, number: int) -> int:
        """The first draw of this rank's micro-batch `number`, counted from step 0."""
        step, turn = divmod(number, self.accumulation)
        return step * self.global_draws + (turn * self.world + self.rank) * self.micro

    def skips(self, draw: int) -> bool:
        return any(a <= draw < b for a, b in self.skip_draws)


@dataclass(frozen=True)
class Delivery:
    """A batch on its way out of a worker, with the bad samples that were met and what was fetched."""

    batch: Batch
    faults: tuple[Fault, ...]
    traffic: Traffic

    def pin_memory(self) -> Delivery:
        """Called by torch's DataLoader where there is a CUDA device."""
        return replace(self, batch=self.batch.pin_memory())


@dataclass(frozen=True)
class _Sample:
    """A clip with what the run wants to know about it."""

    clip: Clip
    label: int | None
    caption: str | None


class BatchBuilder:
    """`builder(number)` makes this rank's micro-batch `number`: reading, decoding, augmenting, collating."""

    def __init__(
        self,
        sources: Sequence[SourceSpec],
        plan: LoaderPlan,
        *,
        tokenize: Tokenize | None = None,
        label_field: str | None = None,
        cache: BlockCache | None = None,
    ) -> None:
        _check_alike(sources)
        self._specs = tuple(sources)
        self._media, self._num_frames = sources[0].media, sources[0].frames.count
        self._plan = plan
        self._tokenize = tokenize
        self._label_field = label_field
        # a window's shards, and a few of the next one while batches overlap its end
        self.sources = [
            TarStream(spec.shards)
            if isinstance(spec.shards, Tars)
            else ShardSource(spec.shards, max_open=plan.window + 4, cache=cache)
            for spec in sources
        ]
        # a source keeps its order when others come or go: its seed holds its name
        self._orders = {
            number: Order(source.counts, seed=key_of(plan.seed, "order", sources[number].name), window=plan.window)
            for number, source in enumerate(self.sources)
            if isinstance(source, ShardSource)
        }
        self._mixture = Mixture(_weights(sources, self.sources), seed=plan.seed)

    def __call__(self, number: int) -> Delivery:
        plan = self._plan
        shape = (plan.micro, plan.num_sample, self._num_frames, plan.image_side, plan.image_side, 3)
        pixels = batch_memory(shape)
        shown, faults = [], []
        first = plan.first_draw(number)
        self._expect(range(first, first + plan.micro))
        for draw, views in enumerate(pixels.numpy(), start=first):
            item, bad = self._show(draw, views)
            shown.append(item)
            faults += bad
        step_start = number // plan.accumulation * plan.global_draws
        batch = collate(shown, pixels, media=self._media, step_start=step_start, tokenize=self._tokenize)
        traffic = sum((s.take_traffic() for s in self.sources if isinstance(s, ShardSource)), Traffic())
        return Delivery(batch, tuple(faults), traffic)

    def _expect(self, draws: range) -> None:
        """Tell each source what the draws will read, so that a remote one fetches it at once."""
        drawn = [self._mixture(draw) for draw in draws]
        for number, source in enumerate(self.sources):
            if isinstance(source, ShardSource):
                source.expect(self._orders[number](k) for which, k in drawn if which == number)

    def _show(self, draw: int, views: NDArray[np.uint8]) -> tuple[Shown, list[Fault]]:
        """Draw `draw`: its sample or the first good substitute, rendered into views u8 [views,T,H,W,3]."""
        plan = self._plan
        number, k = self._mixture(draw)
        source = self.sources[number]
        if isinstance(source, TarStream):
            seed = key_of(plan.seed, "stream", self._specs[number].name, draw)
            sample, faults = self._first_good(source, islice(source.take(seed), 1 + MAX_SUBSTITUTES), draw, number)
        else:
            refs = candidates(self._orders[number], draw=draw, k=k, seed=plan.seed, skip_own=plan.skips(draw))
            sample, faults = self._first_good(source, refs, draw, number)
        for copy, view in enumerate(views):
            self._render(sample.clip.frames, draw, copy, view)
        clip = sample.clip
        shown = Shown(draw, clip.key, clip.digest(draw), bool(faults), sample.label, sample.caption)
        return shown, faults

    def _first_good(
        self, source: ClipSource[Ref], refs: Iterable[Ref], draw: int, number: int
    ) -> tuple[_Sample, list[Fault]]:
        spec = self._specs[number]
        read = partial(self._read, source, draw, spec.frames)
        return first_good(refs, read, draw=draw, name=lambda ref: f"{spec.name}:{source.key(ref)}")

    def _read(self, source: ClipSource[Ref], draw: int, policy: FramePolicy, ref: Ref) -> _Sample:
        """One sample under draw `draw`: pixels, label and caption of the same clip."""
        seed = self._plan.seed
        clip = read_clip(
            source,
            ref,
            choose=lambda num_frames: policy.choose(num_frames, Stream(seed, "frames", draw)),
            with_record=self._tokenize is not None or self._label_field is not None,
        )
        label = None if self._label_field is None else label_of(clip.record, self._label_field)
        caption = None if self._tokenize is None else caption_of(clip.record, Stream(seed, "caption", draw))
        return _Sample(clip, label, caption)

    def _render(self, frames: NDArray[np.uint8], draw: int, copy: int, out: NDArray[np.uint8]) -> None:
        plan = self._plan
        training_view(
            frames,
            side=plan.image_side,
            stream=Stream(plan.seed, "augment", draw, copy),
            crop=plan.crop,
            flip=plan.flip,
            jitter=plan.jitter,
            out=out,
        )


class Loader:
    """This rank's micro-batches of any step; consecutive steps flow from one running pipeline.

    Raises DataError or ConfigError for sources that cannot be used, before anything is read.
    """

    def __init__(
        self,
        sources: Sequence[SourceSpec],
        plan: LoaderPlan,
        *,
        tokenize: Tokenize | None = None,
        label_field: str | None = None,
        cache: BlockCache | None = None,
    ) -> None:
        self._plan = plan
        self._builder = BatchBuilder(sources, plan, tokenize=tokenize, label_field=label_field, cache=cache)
        self._names = [spec.name for spec in sources]
        self._pipeline: Pipeline[Delivery] | None = None
        self._next = 0  # the micro-batch that the pipeline delivers next
        self.faults = FaultLog(max_bad_rate=plan.max_bad_rate)
        self.traffic = Traffic()  # of the batches handed out by this rank
        if self.inexact:
            log.warning(
                "this run is inexact: %s is streamed, so the order of its clips cannot be repeated, and a resumed run "
                "begins it anew",
                ", ".join(self.inexact),
            )
        for a, b in plan.skip_draws:
            log.info("draws %d to %d show other samples (data.skip_draws)", a, b - 1)

    @property
    def fingerprints(self) -> dict[str, str]:
        """By source name; a checkpoint keeps them, so that a resumed run reads the same data. A stream has none."""
        sources = zip(self._names, self._builder.sources, strict=True)
        return {name: source.fingerprint for name, source in sources if isinstance(source, ShardSource)}

    @property
    def inexact(self) -> tuple[str, ...]:
        """The sources that are streamed: what they show is no function of (seed, draw)."""
        sources = zip(self._names, self._builder.sources, strict=True)
        return tuple(name for name, source in sources if isinstance(source, TarStream))

    @property
    def num_samples(self) -> int:
        """Samples of all sources together, as far as they are known: the draws of one epoch."""
        return sum(source.num_samples or 0 for source in self._builder.sources)

    def start(self, step: int) -> None:
        """Begin to build the batches of `step` and those after it."""
        self.close()
        self._next = step * self._plan.accumulation
        self._pipeline = Pipeline(
            self._builder,
            first=self._next,
            num_workers=self._plan.num_workers,
            prefetch=self._plan.prefetch,
            stall_limit_s=self._plan.stall_limit_s,
        )

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """The `accumulation` micro-batches of this rank for optimiser step `step`, in order.

        A step that does not follow the last one restarts the pipeline there.
        """
        if self._pipeline is None or self._next != step * self._plan.accumulation:
            self.start(step)
        for _ in range(self._plan.accumulation):
            yield self._take()

    def close(self) -> None:
        """End the workers and close all files. The loader can be started again."""
        if self.traffic.requests or self.traffic.cached:
            log.info("the loader %s (this rank)", self.traffic)
            self.traffic = Traffic()
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
        for source in self._builder.sources:
            source.close()

    def _take(self) -> Batch:
        assert self._pipeline is not None
        delivery = self._pipeline.take()
        self._next += 1
        self.traffic += delivery.traffic
        self.faults.add(delivery.faults, draws=self._plan.micro, substituted=delivery.batch.substituted)
        return delivery.batch


def _check_alike(sources: Sequence[SourceSpec]) -> None:
    """One batch mixes all sources, so their clips must be alike."""
    if not sources:
        raise ConfigError("data.sources is empty", hint="name at least one folder of shards")
    if len({spec.name for spec in sources}) < len(sources):
        raise ConfigError(f"two sources have the same name: {[spec.name for spec in sources]}")
    if len({(spec.media, spec.frames.count) for spec in sources}) > 1:
        raise ConfigError("sources of one batch must have the same media and the same number of frames")
    if len({spec.weight is None for spec in sources}) > 1:
        raise ConfigError("give every source a weight, or none (then they weigh as many samples as they hold)")


def _weights(specs: Sequence[SourceSpec], sources: Sequence[ShardSource | TarStream]) -> list[float]:
    sizes = [source.num_samples for source in sources]
    if len(sources) == 1:
        return [1.0]
    if None in sizes and specs[0].weight is None:
        raise ConfigError(
            f"nobody knows how many samples {specs[sizes.index(None)].name} streams, so how often to draw from it",
            hint="give every source a weight, or the stream its samples",
        )
    return [float(spec.weight or size or 0) for spec, size in zip(specs, sizes, strict=True)]
