"""Retrieval by the embeddings of a model: which clips, how they are looked at, and what judges it."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from umt_ds.config.evaluation import RetrievalEvaluation, VideoTextEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.data.clip_request import ClipRequest, ShownFrames, middle_frames, published_frames
from umt_ds.data.order.views import Views
from umt_ds.data.shards.storage import as_path
from umt_ds.data.text import CaptionTokenizer
from umt_ds.errors import ConfigError
from umt_ds.evaluation.retrieval import Rerank, RetrievalEvaluator
from umt_ds.models.video_text import VideoTextModel
from umt_ds.tasks.captions import caption_tokenizer
from umt_ds.tasks.evaluators import evaluation_set, trained_on
from umt_ds.tasks.video_text.retriever import Retriever
from umt_ds.tasks.video_text.settings import objective_of


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
