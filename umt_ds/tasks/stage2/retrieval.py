"""Retrieval by the embeddings of stage 2: which clips, how they are looked at, what captions find among them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from umt_ds.config.run import RunConfig
from umt_ds.data.evaluation import EvalBatch, iterate_once
from umt_ds.data.order.frames import middle
from umt_ds.engine.manifest import resolve_checkpoint
from umt_ds.evaluation.bar import with_bar
from umt_ds.evaluation.exhibits import Exhibit, Retrieved, or_why_not
from umt_ds.evaluation.metrics.retrieval import RetrievalResult, answers, find, retrieval_scores
from umt_ds.tasks.room import ExhibitOptions
from umt_ds.tasks.sources import held_out_beside, training_shards
from umt_ds.tasks.stage2.retriever import Retriever, build_retriever

_ANSWERS, _FIRST = 6, 5  # captions that are shown, and clips for each


@dataclass(frozen=True)
class Retrieval:
    """Which clips, and how. limit: only the first so many. antialias: None as the run's own clips are resized."""

    shards: Path
    limit: int | None = None
    caption: str = "caption"
    batch: int = 16
    antialias: bool | None = None

    def search(self, retriever: Retriever, *, name: str) -> RetrievalResult:
        """Embed all clips and captions by a model. Raises DataError for clips without captions."""
        return find(retriever, retriever.tokenizer, self._clips(retriever, name))

    def frames_of(self, videos: Collection[int], retriever: Retriever) -> dict[int, Tensor]:
        """The frames of some of the clips, by their number: u8 [T,H,W,3]."""
        every = (frames for some in self._clips(retriever, "pictures") for frames in some.pixels)
        return {number: frames for number, frames in enumerate(every) if number in videos}

    def resizes_smoothly(self, of_run: bool) -> bool:
        """Whether with antialias."""
        return of_run if self.antialias is None else self.antialias

    def _clips(self, retriever: Retriever, name: str) -> Iterator[EvalBatch]:
        clips = iterate_once(
            self.shards,
            num_frames=retriever.frames,
            side=retriever.side,
            batch_size=self.batch,
            view="stretched",
            antialias=self.resizes_smoothly(retriever.antialias),
            caption_field=self.caption,
            clean=retriever.tokenizer.clean,
            limit=self.limit,
        )
        return with_bar(clips, self.shards, limit=self.limit, name=f"embed {name}")


def resized_how(smooth: Collection[bool]) -> str:
    """How the frames of all runs were resized. smooth: with antialias or without, as it occurs."""
    if len(set(smooth)) > 1:
        return "resized as each run's own clips are, with antialias or without"
    return "resized with antialias" if any(smooth) else "resized without antialias, as published"


def retrieved(run: Path, config: RunConfig, options: ExhibitOptions) -> Exhibit:
    """What held-out captions find, or why that cannot be said."""
    return or_why_not("What finds what", lambda: _search(run, config, options))


def _search(run: Path, config: RunConfig, options: ExhibitOptions) -> Retrieved:
    hint = "name held-out shards with captions: --val SHARDS"
    shards = options.val or held_out_beside(training_shards(config, hint=hint), ["retrieval", "val"], hint=hint)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    retriever = build_retriever(config, run, device=device)
    request = Retrieval(shards, limit=options.max_clips)
    found = request.search(retriever, name=shards.name)
    texts = middle(len(found.captions), count=min(_ANSWERS, len(found.captions)))
    some = answers(found, texts=texts, first=min(_FIRST, len(found.keys)))
    shown = {video for answer in some for video in answer.found}
    return Retrieved(
        shards=shards,
        checkpoint=resolve_checkpoint(run),
        found=found,
        scores=retrieval_scores(found.similarity, found.video_of_text),
        answers=some,
        frames=request.frames_of(shown, retriever),
        resized=resized_how([retriever.antialias]),
    )
