"""What a worker of the loader makes: a whole micro-batch, from its draws to collated views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from umt_ds.batch import Batch, Media, Movable
from umt_ds.data.clips import Clip
from umt_ds.data.collate import Tokenize, TokenizeAnswers, collate
from umt_ds.data.draws import Draws
from umt_ds.data.faults import Fault
from umt_ds.data.loader_plan import LoaderPlan, SourceSpec, frames_of_media
from umt_ds.data.on_device import EncodedFrames, Packer
from umt_ds.data.pipeline import BatchMemory
from umt_ds.data.pixels.augment import View, draw_view, render
from umt_ds.data.shards.block_cache import BlockCache
from umt_ds.data.shards.remote import Traffic
from umt_ds.keyed import Stream


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


class BatchBuilder:
    """`builder(number)` makes this rank's micro-batch `number`: reading, decoding, augmenting, collating."""

    def __init__(
        self,
        sources: Sequence[SourceSpec],
        plan: LoaderPlan,
        *,
        tokenize: Tokenize | None = None,
        tokenize_answers: TokenizeAnswers | None = None,
        label_field: str | None = None,
        cache: BlockCache | None = None,
    ) -> None:
        self._num_frames = frames_of_media(sources)
        self._plan = plan
        self._tokenize, self._tokenize_answers = tokenize, tokenize_answers
        self.draws = Draws(
            sources,
            plan,
            tokenize=tokenize,
            label_field=label_field,
            cache=cache,
            reads_answers=tokenize_answers is not None,
        )
        self._batch_memory = BatchMemory(turns=plan.prefetch + 1)

    def __call__(self, number: int) -> WorkerBatch:
        plan = self._plan
        self._batch_memory.next_turn()
        first = plan.first_draw(number)
        draws = range(first, first + plan.micro)
        self.draws.expect(draws)
        step_start = number // plan.accumulation * plan.global_draws
        faults: list[Fault] = []
        parts = []
        for medium in self.draws.schedule.media:
            own = [draw for draw in draws if self.draws.schedule.medium(draw) == medium]
            if own:
                parts.append(self._build(own, medium, step_start, faults))
        return WorkerBatch(tuple(parts), tuple(faults), self.draws.take_traffic())

    def _build(self, draws: Sequence[int], medium: Media, step_start: int, faults: list[Fault]) -> MediaRows:
        """The rows of one medium; what was wrong goes to `faults`."""
        plan = self._plan
        packer = None if plan.on_device == "nothing" else Packer()
        frame = (self._num_frames[medium], plan.image_side, plan.image_side, 3) if packer is None else (0,)
        # u8 [draws,views,T,side,side,3]
        pixels = self._batch_memory(f"{medium} views", (len(draws), plan.num_sample, *frame))
        shown = []
        for draw, views in zip(draws, pixels, strict=True):
            clip, item, bad = self.draws.show(draw)
            for copy, out in enumerate(views):
                view = self._draw_view(clip, draw, copy)
                if packer is None:
                    render(clip.frames, view, out.numpy())
                else:
                    packer.add(clip, view, draw=draw)
            shown.append(item)
            faults += bad
        batch = collate(
            shown,
            pixels,
            media=medium,
            step_start=step_start,
            tokenize=self._tokenize,
            tokenize_answers=self._tokenize_answers,
        )
        return MediaRows(batch, None if packer is None else packer.pack(self._batch_memory, medium))

    def _draw_view(self, clip: Clip, draw: int, copy: int) -> View:
        plan, (width, height) = self._plan, clip.size
        stream = Stream(plan.seed, "augment", draw, copy)
        view = draw_view(
            width,
            height,
            side=plan.image_side,
            stream=stream,
            crop=plan.crop,
            scale=plan.scale,
            filter=plan.filter,
            flip=plan.flip,
            jitter=plan.jitter,
            antialias=plan.antialias,
        )
        if plan.rand_augment is None:
            return view
        return replace(view, changes=plan.rand_augment.draw(Stream(plan.seed, "rand_augment", draw, copy)))
