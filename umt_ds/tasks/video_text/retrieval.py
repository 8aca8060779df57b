"""Retrieval by the embeddings of a model: which clips, how they are looked at, what captions find among them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from umt_ds.config.evaluation import RetrievalEvaluation, VideoTextEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.data.evaluation import ClipRequest, EvaluationSet, ShownFrames, middle_frames, published_frames
from umt_ds.data.order.frames import middle
from umt_ds.data.order.views import Views
from umt_ds.data.shards.storage import as_path
from umt_ds.data.text import CaptionTokenizer
from umt_ds.engine.manifest import resolve_checkpoint
from umt_ds.errors import ConfigError
from umt_ds.evaluation.bar import bar_of
from umt_ds.evaluation.exhibits import Exhibit, Retrieved, or_why_not
from umt_ds.evaluation.metrics.retrieval import RetrievalResult, answers, retrieval_scores
from umt_ds.evaluation.retrieval import Rerank, RetrievalEvaluator, embed_set
from umt_ds.models.video_text import VideoTextModel
from umt_ds.tasks.captions import caption_tokenizer
from umt_ds.tasks.evaluators import evaluation_set, trained_on
from umt_ds.tasks.room import ExhibitOptions
from umt_ds.tasks.sources import held_out_beside, training_shards
from umt_ds.tasks.video_text.retriever import Retriever, build_retriever
from umt_ds.tasks.video_text.settings import objective_of

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
        items = self._clips(retriever)
        with bar_of(items, name=f"embed {name}") as beat:
            return embed_set(retriever, retriever.tokenizer, items, beat=beat).compared()

    def frames_of(self, videos: Collection[int], retriever: Retriever) -> dict[int, Tensor]:
        """The frames of some of the clips, by their number in the set: u8 [T,H,W,3]."""
        return {number: views[0] for number, views in self._clips(retriever).views_of(videos).items()}

    def resizes_smoothly(self, of_run: bool) -> bool:
        """Whether with antialias."""
        return of_run if self.antialias is None else self.antialias

    def _clips(self, retriever: Retriever) -> EvaluationSet:
        request = full_view(
            retriever.tokenizer,
            frames=middle_frames(retriever.frames),
            side=retriever.side,
            antialias=self.resizes_smoothly(retriever.antialias),
            caption=self.caption,
        )
        return EvaluationSet(self.shards, request, batch_size=self.batch, limit=self.limit)


def full_view(
    tokenizer: CaptionTokenizer, *, frames: ShownFrames, side: int, antialias: bool, caption: str | None
) -> ClipRequest:
    """All of each clip, out of its proportions, with the captions in the field `caption`; None: without.

    Source: METHOD.md, "Frames: stage 2", "Crops: stage 2".
    """
    return ClipRequest(
        frames=frames,
        side=side,
        view="stretched",
        antialias=antialias,
        caption_field=caption,
        clean=tokenizer.clean,
    )


def request_of(
    settings: VideoTextEvaluation, run: RunConfig, tokenizer: CaptionTokenizer, *, caption: str | None
) -> ClipRequest:
    """How an evaluation of video and text sees clips."""
    frames, side = run.task.clip_shape
    shown = published_frames(Views("retrieval", frames)) if settings.frames == "published" else middle_frames(frames)
    antialias = run.data.augment.antialias if settings.antialias is None else settings.antialias
    return full_view(tokenizer, frames=shown, side=side, antialias=antialias, caption=caption)


def retrieval_evaluator(name: str, settings: RetrievalEvaluation, run: RunConfig) -> RetrievalEvaluator:
    """What captions find by the embeddings of the module in training, and by its fusion encoder.

    Raises ConfigError where there is no vocabulary, or no matching to re-rank by; DataError for what is no set.
    """
    task = objective_of(run)
    if settings.rerank is not None and not task.loss_weights.vtm:
        raise ConfigError(
            f"evaluation.{name}.rerank: the run does not learn which texts match (task.loss_weights.vtm is 0), so its "
            "fusion encoder cannot re-rank",
            hint=f"evaluation.{name}.rerank=null",
        )
    tokenizer = caption_tokenizer(task.text)
    request = request_of(settings, run, tokenizer, caption=settings.caption)
    antialias = request.antialias
    frames, side = task.clip_shape

    def retriever(module: nn.Module) -> Retriever:
        assert isinstance(module, VideoTextModel)
        return Retriever(module, frames=frames, side=side, antialias=antialias, tokenizer=tokenizer)

    items = evaluation_set(name, as_path(settings.shards), request, settings, run)
    about = {"vocabulary": tokenizer.fingerprint, "max_tokens": task.text.max_tokens, **trained_on(name, items, run)}
    reranking, weighed = settings.rerank, settings.dual_softmax
    return RetrievalEvaluator(
        name,
        items,
        retriever,
        tokenizer,
        num_workers=run.data.workers,
        about=about,
        rerank=None if reranking is None else Rerank(retriever, reranking.candidates, reranking.pairs),
        dual_softmax=None if weighed is None else weighed.temperature,
    )


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
    shown = {found.numbers[video]: video for answer in some for video in answer.found}
    return Retrieved(
        shards=shards,
        checkpoint=resolve_checkpoint(run),
        found=found,
        scores=retrieval_scores(found.similarity, found.right),
        answers=some,
        frames={shown[number]: frames for number, frames in request.frames_of(shown, retriever).items()},
        resized=resized_how([retriever.antialias]),
    )
