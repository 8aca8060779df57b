"""The loader: the micro-batches of any step, for any rank, as a function of the step.

Order, mixture, frames, crops and captions are pure functions of (seed, draw number; `draws.py`), so the whole
state of the loader is the number of the step. Ranks, accumulation and workers only cut the same
sequence of draws into pieces:

    step s       draws [s·G, (s+1)·G), of one medium or of both (`media.py`)
    micro-batch  rank r, accumulation step a: the b draws from s·G + (a·R + r)·b on
    worker       builds whole micro-batches (`worker.py`); they come back in order

Streamed tars (`stream.py`) are the exception: a draw shows what comes next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from umt_ds.batch import Batch
from umt_ds.data.collate import Tokenize, TokenizeAnswers
from umt_ds.data.faults import FaultLog
from umt_ds.data.loader_plan import LoaderPlan, SourceSpec
from umt_ds.data.on_device import finish
from umt_ds.data.order.views import why_not_train
from umt_ds.data.pipeline import WorkerPool
from umt_ds.data.shards.block_cache import BlockCache
from umt_ds.data.shards.manifest import Manifest
from umt_ds.data.shards.remote import Traffic
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.stream import TarStream
from umt_ds.data.worker import BatchBuilder, MediaRows, WorkerBatch

__all__ = ["Loader", "LoaderPlan", "SourceSpec"]

log = logging.getLogger(__name__)

_CPU = torch.device("cpu")


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
        tokenize_answers: TokenizeAnswers | None = None,
        label_field: str | None = None,
        cache: BlockCache | None = None,
        device: torch.device = _CPU,
    ) -> None:
        self._plan = plan
        self._device = device
        self.builder = BatchBuilder(
            sources,
            plan,
            tokenize=tokenize,
            tokenize_answers=tokenize_answers,
            label_field=label_field,
            cache=cache,
        )
        self._names = [spec.name for spec in sources]
        self._pipeline: WorkerPool[WorkerBatch] | None = None
        self._next = 0  # the micro-batch that the pipeline delivers next
        self.faults = FaultLog(max_bad_rate=plan.max_bad_rate)
        self.traffic = Traffic()  # of the batches handed out by this rank
        self._say_what_is_unusual()
        for a, b in plan.skip_draws:
            log.info("draws %d to %d show other samples (data.skip_draws)", a, b - 1)
        self._mixtures = {segment.step: segment.told(self._names) for segment in self.builder.draws.schedule.segments}
        if len(self._mixtures) > 1:
            for step, told in self._mixtures.items():
                log.info("mixture from step %d on: %s", step, told)

    @property
    def fingerprints(self) -> dict[str, str]:
        """By source name; a checkpoint keeps them, so that a resumed run reads the same data. A stream has none."""
        sources = zip(self._names, self.builder.draws.sources, strict=True)
        return {name: source.fingerprint for name, source in sources if isinstance(source, ShardSource)}

    @property
    def earlier(self) -> dict[str, dict[str, str]]:
        """By source name: fingerprints that its set had before samples were added, and what to say of each."""
        sources = zip(self._names, self.builder.draws.sources, strict=True)
        return {name: _earlier(source.manifest) for name, source in sources if isinstance(source, ShardSource)}

    @property
    def not_reproducible(self) -> tuple[str, ...]:
        """The sources that are streamed: what they show is no function of (seed, draw)."""
        sources = zip(self._names, self.builder.draws.sources, strict=True)
        return tuple(name for name, source in sources if isinstance(source, TarStream))

    @property
    def num_samples(self) -> int:
        """Samples of all sources together, as far as they are known."""
        return sum(source.num_samples or 0 for source in self.builder.draws.sources)

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
        if step and step in self._mixtures:
            log.info("the mixture changes after %d steps (data.segments): %s", step, self._mixtures[step])
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
        self.builder.draws.close()

    def _say_what_is_unusual(self) -> None:
        if self.not_reproducible:
            log.warning(
                "this run is inexact: %s is streamed, so the order of its clips cannot be repeated, and a resumed run "
                "begins it anew",
                ", ".join(self.not_reproducible),
            )
        for name, source in zip(self._names, self.builder.draws.sources, strict=True):
            if isinstance(source, ShardSource) and (why := why_not_train(source.manifest)):
                log.warning("source %s %s; make a set for training with umt-data … --frames", name, why)

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


def _earlier(manifest: Manifest) -> dict[str, str]:
    now, *before = manifest.versions
    return {
        one.fingerprint: f"the set before {now.num_samples - one.num_samples:,} samples were added" for one in before
    }
