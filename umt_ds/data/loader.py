"""The loader: the micro-batches of any step, for any rank, as a function of the step.

Order, mixture, frames, crops and captions are pure functions of (seed, draw number), so the whole
state of the loader is the number of the step. Ranks, accumulation and workers only cut the same
sequence of draws into pieces:

    step s       draws [s·G, (s+1)·G), of one medium or of both (`media.py`)
    micro-batch  rank r, accumulation step a: the b draws from s·G + (a·R + r)·b on
    worker       builds whole micro-batches; they come back in order

Streamed tars (`stream.py`) are the exception: a draw shows what comes next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch

from umt_ds.batch import Batch, Media, Movable
from umt_ds.data.clips import Clip, ClipSource, caption_of, read_clip, read_record
from umt_ds.data.collate import SampleMeta, Tokenize, collate
from umt_ds.data.faults import MAX_SUBSTITUTES, Fault, FaultLog, candidates, first_good
from umt_ds.data.lru_cache import LruCache
from umt_ds.data.on_device import EncodedFrames, OnDevice, Packer, finish
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.order.media import MediaSchedule, Mode
from umt_ds.data.order.mixture import MOST
from umt_ds.data.order.order import Order
from umt_ds.data.pipeline import BatchMemory, WorkerPool
from umt_ds.data.pixels.augment import NO_JITTER, ColorJitter, CropKind, View, draw_view, render
from umt_ds.data.pixels.decode import Frames, new_memory
from umt_ds.data.shards.block_cache import BlockCache
from umt_ds.data.shards.remote import Traffic
from umt_ds.data.shards.sample_record import captions_of, label_of
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.stream import Tars, TarStream
from umt_ds.errors import ConfigError, DataError, DecodeError
from umt_ds.keyed import Stream, key_of

log = logging.getLogger(__name__)
Ref = TypeVar("Ref")

_CPU = torch.device("cpu")
_LOOKED_AT = 8  # samples of a source, to see whether they have captions


@dataclass(frozen=True)
class SourceSpec:
    """One folder of shards, or a stream, in the mixture. `weight`: share of the draws; None: its samples × `repeat`."""

    name: str
    shards: Path | Tars
    frames: FramePolicy
    weight: float | None = None
    repeat: float = 1.0
    media: Media = "video"
    caption: str = "caption"  # field of the samples' json that holds their text


@dataclass(frozen=True)
class LoaderPlan:
    """How draws become batches. The first block says what the run sees, the second only how it runs."""

    seed: int
    global_draws: int  # G: draws per optimiser step, over all ranks
    image_side: int
    num_sample: int = 1  # views of each drawn clip (repeated augmentation)
    crop: CropKind = "multi_scale"
    scale: tuple[float, float] = (0.5, 1.0)  # random_resized: part of the area that is kept
    flip: bool = True
    jitter: ColorJitter = NO_JITTER
    antialias: bool = True
    on_device: OnDevice = "nothing"
    window: int = 16  # shards shuffled together
    media_mode: Mode = "alternate"  # sources of images and of clips: one medium a step, or both in each micro-batch
    pack: int = 16  # packed: draws that hold whole shares of both; divides micro
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
        assert self.on_device == "nothing" or self.jitter == NO_JITTER, "colours are for the workers"
        if bad := [span for span in self.skip_draws if not 0 <= span[0] < span[1]]:
            raise ConfigError(f"skip_draws {bad}: each range is [a, b) with 0 ≤ a < b")

    def first_draw(self, number: int) -> int:
        """The first draw of this rank's micro-batch `number`, counted from step 0."""
        step, turn = divmod(number, self.accumulation)
        return step * self.global_draws + (turn * self.world + self.rank) * self.micro

    def skips(self, draw: int) -> bool:
        return any(a <= draw < b for a, b in self.skip_draws)


@dataclass(frozen=True)
class WorkerBatch(Movable):
    """The rows of each medium on their way out of a worker, with the bad samples that were met and what was fetched."""

    parts: tuple[MediaRows, ...]
    faults: tuple[Fault, ...]
    traffic: Traffic


@dataclass(frozen=True)
class MediaRows(Movable):
    """Rows of one medium. packed: what the device makes the pixels from, which `batch` then lacks."""

    batch: Batch
    packed: EncodedFrames | None = None


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
        self._num_frames = _frames_of_media(sources)
        self._specs = tuple(sources)
        self._plan = plan
        self._tokenize = tokenize
        self._label_field = label_field
        # a window's shards, and a few of the next one while batches overlap its end
        self.sources = [
            TarStream(spec.shards, name=spec.name)
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
        # frames are rendered before the next are read: fresh memory for each clip would cost its pages every time
        self._frame_memory: LruCache[tuple[int, ...], Frames] = LruCache(new_memory, size=4)
        self._batch_memory = BatchMemory(turns=plan.prefetch + 1)
        self.programme = MediaSchedule(
            [spec.media for spec in sources],
            _weights(sources, self.sources),
            seed=plan.seed,
            step_draws=plan.global_draws,
            mode=plan.media_mode,
            pack=plan.pack,
            names=[spec.name for spec in sources],
        )
        if tokenize is not None:
            _check_captions(self._specs, self.sources, tokenize)

    def __call__(self, number: int) -> WorkerBatch:
        plan = self._plan
        self._batch_memory.next_turn()
        first = plan.first_draw(number)
        draws = range(first, first + plan.micro)
        self._expect(draws)
        step_start = number // plan.accumulation * plan.global_draws
        faults: list[Fault] = []
        parts = []
        for medium in self.programme.media:
            own = [draw for draw in draws if self.programme.medium(draw) == medium]
            if own:
                parts.append(self._build(own, medium, step_start, faults))
        traffic = sum((s.take_traffic() for s in self.sources if isinstance(s, ShardSource)), Traffic())
        return WorkerBatch(tuple(parts), tuple(faults), traffic)

    def _build(self, draws: Sequence[int], medium: Media, step_start: int, faults: list[Fault]) -> MediaRows:
        """The rows of one medium; what was wrong goes to `faults`."""
        plan = self._plan
        packer = None if plan.on_device == "nothing" else Packer()
        frame = (self._num_frames[medium], plan.image_side, plan.image_side, 3) if packer is None else (0,)
        # u8 [draws,views,T,side,side,3]
        pixels = self._batch_memory(f"{medium} views", (len(draws), plan.num_sample, *frame))
        shown = []
        for draw, views in zip(draws, pixels, strict=True):
            clip, item, bad = self._show(draw)
            for copy, out in enumerate(views):
                view = self._draw_view(clip, draw, copy)
                if packer is None:
                    render(clip.frames, view, out.numpy())
                else:
                    packer.add(clip, view, draw=draw)
            shown.append(item)
            faults += bad
        batch = collate(shown, pixels, media=medium, step_start=step_start, tokenize=self._tokenize)
        return MediaRows(batch, None if packer is None else packer.pack(self._batch_memory, medium))

    def _expect(self, draws: range) -> None:
        """Tell each source what the draws will read, so that a remote one fetches it at once."""
        drawn = [self.programme(draw) for draw in draws]
        for number, source in enumerate(self.sources):
            if isinstance(source, ShardSource):
                source.prefetch(self._orders[number](k) for which, k in drawn if which == number)

    def _show(self, draw: int) -> tuple[Clip, SampleMeta, list[Fault]]:
        """Draw `draw`: its sample or the first good substitute, and what was wrong with those before."""
        plan = self._plan
        number, k = self.programme(draw)
        source = self.sources[number]
        if isinstance(source, TarStream):
            seed = key_of(plan.seed, "stream", self._specs[number].name, draw)
            sample, faults = self._first_good(source, islice(source.take(seed), 1 + MAX_SUBSTITUTES), draw, number)
        else:
            refs = candidates(self._orders[number], draw=draw, k=k, seed=plan.seed, skip_own=plan.skips(draw))
            sample, faults = self._first_good(source, refs, draw, number)
        clip = sample.clip
        name = self._specs[number].name
        shown = SampleMeta(draw, name, clip.key, clip.digest(draw), bool(faults), sample.label, sample.caption)
        return clip, shown, faults

    def _first_good(
        self, source: ClipSource[Ref], refs: Iterable[Ref], draw: int, number: int
    ) -> tuple[_Sample, list[Fault]]:
        spec = self._specs[number]
        read = partial(self._read, source, draw, spec)
        return first_good(refs, read, draw=draw, name=lambda ref: f"{spec.name}:{source.key(ref)}")

    def _read(self, source: ClipSource[Ref], draw: int, spec: SourceSpec, ref: Ref) -> _Sample:
        """One sample under draw `draw`: pixels, label and caption of the same clip."""
        seed = self._plan.seed
        clip = read_clip(
            source,
            ref,
            choose=lambda num_frames: spec.frames.choose(num_frames, Stream(seed, "frames", draw)),
            with_record=self._tokenize is not None or self._label_field is not None,
            leave_jpegs=self._plan.on_device == "decode",
            memory=self._frame_memory,
        )
        label = None if self._label_field is None else label_of(clip.record, self._label_field)
        caption = None
        if self._tokenize is not None:
            stream = Stream(seed, "caption", draw)
            caption = caption_of(clip.record, stream, field=spec.caption, clean=self._tokenize.clean)
        return _Sample(clip, label, caption)

    def _draw_view(self, clip: Clip, draw: int, copy: int) -> View:
        plan, (width, height) = self._plan, clip.size
        stream = Stream(plan.seed, "augment", draw, copy)
        return draw_view(
            width,
            height,
            side=plan.image_side,
            stream=stream,
            crop=plan.crop,
            scale=plan.scale,
            flip=plan.flip,
            jitter=plan.jitter,
            antialias=plan.antialias,
        )


class Loader:
    """This rank's micro-batches of any step; consecutive steps flow from one running pipeline.

    `device` is where pixels are finished that the plan leaves to it (`on_device`); else they stay on the host.
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
        device: torch.device = _CPU,
    ) -> None:
        self._plan = plan
        self._device = device
        self.builder = BatchBuilder(sources, plan, tokenize=tokenize, label_field=label_field, cache=cache)
        self._names = [spec.name for spec in sources]
        self._pipeline: WorkerPool[WorkerBatch] | None = None
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
        sources = zip(self._names, self.builder.sources, strict=True)
        return {name: source.fingerprint for name, source in sources if isinstance(source, ShardSource)}

    @property
    def inexact(self) -> tuple[str, ...]:
        """The sources that are streamed: what they show is no function of (seed, draw)."""
        sources = zip(self._names, self.builder.sources, strict=True)
        return tuple(name for name, source in sources if isinstance(source, TarStream))

    @property
    def num_samples(self) -> int:
        """Samples of all sources together, as far as they are known."""
        return sum(source.num_samples or 0 for source in self.builder.sources)

    def start(self, step: int) -> None:
        """Begin to build the batches of `step` and those after it."""
        self.close()
        self._next = step * self._plan.accumulation
        self._pipeline = WorkerPool(
            self.builder,
            first=self._next,
            num_workers=self._plan.num_workers,
            prefetch=self._plan.prefetch,
            stall_limit_s=self._plan.stall_limit_s,
        )

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """The `accumulation` micro-batches of this rank for optimiser step `step`, in order.

        A step that does not follow the last one restarts the pipeline there.
        """
        return (finish() for finish in self.deliveries(step))

    def deliveries(self, step: int) -> Iterator[Callable[[], Batch]]:
        """The same as they arrive: a call finishes the pixels, in the stream of the device that is current then. The
        memory that they lie in is a worker's: call it before the next one is taken."""
        if self._pipeline is None or self._next != step * self._plan.accumulation:
            self.start(step)
        for _ in range(self._plan.accumulation):
            yield partial(self._finished, self._take())

    def close(self) -> None:
        """End the workers and close all files. The loader can be started again."""
        if self.traffic.requests or self.traffic.cached:
            log.info("the loader %s (this rank)", self.traffic)
            self.traffic = Traffic()
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
        for source in self.builder.sources:
            source.close()

    def _take(self) -> WorkerBatch:
        assert self._pipeline is not None
        delivery = self._pipeline.take()
        self._next += 1
        if delivery.traffic.unkept and not self.traffic.unkept:
            log.warning(
                "the cache of this node cannot keep what comes from the store, so it is fetched again and again: %s",
                delivery.traffic.problem,
            )
        self.traffic += delivery.traffic
        substituted = sum(part.batch.substituted for part in delivery.parts)
        self.faults.add(delivery.faults, draws=self._plan.micro, substituted=substituted)
        return delivery

    def _finished(self, delivery: WorkerBatch) -> Batch:
        batches = [self._finished_part(part) for part in delivery.parts]
        return batches[0] if len(batches) == 1 else replace(batches[0], packed_with=batches[1])

    def _finished_part(self, part: MediaRows) -> Batch:
        """The rows with pixels that stay."""
        batch = part.batch
        if part.packed is not None:
            return replace(batch, pixels=finish(part.packed, side=self._plan.image_side, device=self._device))
        if self._plan.num_workers and not batch.pixels.is_pinned():  # its worker will write over it
            return replace(batch, pixels=batch.pixels.clone())
        return batch


def _frames_of_media(sources: Sequence[SourceSpec]) -> dict[Media, int]:
    """Frames of what each medium shows. Raises ConfigError for sources that cannot be shown together."""
    if not sources:
        raise ConfigError("data.sources is empty", hint="name at least one folder of shards")
    if len({spec.name for spec in sources}) < len(sources):
        raise ConfigError(f"two sources have the same name: {[spec.name for spec in sources]}")
    frames: dict[Media, int] = {}
    for spec in sources:
        if frames.setdefault(spec.media, spec.frames.count) != spec.frames.count:
            raise ConfigError(f"sources of one medium must have the same number of frames: {spec.name} has not")
    if len({spec.weight is None for spec in sources}) > 1:
        raise ConfigError("give every source a weight, or none (then they weigh as many samples as they hold)")
    return frames


def _check_captions(
    specs: Sequence[SourceSpec], sources: Sequence[ShardSource | TarStream], tokenize: Tokenize
) -> None:
    """Raises DataError for a source whose first samples have no text: every draw of it would need a substitute."""
    for spec, source in zip(specs, sources, strict=True):
        if isinstance(source, TarStream):
            continue
        fields: set[str] = set()
        for ref in islice(source.refs(), _LOOKED_AT):
            try:
                record = read_record(source, ref)
                if captions_of(record, field=spec.caption, clean=tokenize.clean):
                    break
                fields |= {name for name, value in record.items() if isinstance(value, str) and value}
            except DecodeError:
                continue
        else:
            raise DataError(
                f"source {spec.name}: the first {min(_LOOKED_AT, source.num_samples)} samples of {spec.shards} have no "
                f"text in {spec.caption!r}",
                hint=f"data.sources.{spec.name}.caption=FIELD; fields with text: {', '.join(sorted(fields)) or 'none'}",
            )


def _weights(specs: Sequence[SourceSpec], sources: Sequence[ShardSource | TarStream]) -> list[float]:
    sizes = [source.num_samples for source in sources]
    if len(sources) == 1:
        return [1.0]
    if None in sizes and specs[0].weight is None:
        raise ConfigError(
            f"nobody knows how many samples {specs[sizes.index(None)].name} streams, so how often to draw from it",
            hint="give every source a weight, or the stream its samples",
        )
    draws = [(size or 0) * spec.repeat for spec, size in zip(specs, sizes, strict=True)]
    # a tiny source without a weight is drawn rarely: once in a block, if its samples are fewer than that
    least = sum(draws) / MOST if specs[0].weight is None else 0.0
    return [float(spec.weight or max(own, least)) for spec, own in zip(specs, draws, strict=True)]
