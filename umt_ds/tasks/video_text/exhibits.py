"""What a report shows of a model of video and text: what held-out captions find, and which options it chooses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from umt_ds.config.evaluation import MultipleChoiceEvaluation, RetrievalEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.data.order.frames import middle
from umt_ds.engine.manifest import resolve_checkpoint
from umt_ds.evaluation.bar import bar_of
from umt_ds.evaluation.encode import ALONE
from umt_ds.evaluation.evaluator import Scores
from umt_ds.evaluation.exhibits import AnsweredClip, Exhibit, Retrieved, or_why_not
from umt_ds.evaluation.metrics.retrieval import answers, retrieval_scores
from umt_ds.evaluation.prediction import Choice
from umt_ds.evaluation.retrieval import RetrievalEvaluator, embed_set
from umt_ds.tasks.answered import Row, answered_clips
from umt_ds.tasks.room import ExhibitOptions, Say
from umt_ds.tasks.sources import held_out_beside, training_shards
from umt_ds.tasks.video_text.choice import multiple_choice_evaluator
from umt_ds.tasks.video_text.retrieval import resized_how, retrieval_evaluator
from umt_ds.tasks.video_text.retriever import Retriever, build_retriever

_ANSWERS, _FIRST = 6, 5  # captions that are shown, and clips for each


def video_text_exhibits(folder: Path, run: RunConfig, options: ExhibitOptions, say: Say) -> Iterator[Exhibit]:
    """What captions find; and of each multiple choice that judges the run, what it chooses."""
    chosen = {name: one for name, one in run.evaluation.items() if isinstance(one, MultipleChoiceEvaluation)}
    judges_retrieval = any(isinstance(one, RetrievalEvaluation) for one in run.evaluation.values())
    if judges_retrieval or not chosen or options.val is not None:
        say("embedding held-out clips and captions")
        yield or_why_not("What finds what", lambda: _retrieved(folder, run, options))
    for name, settings in chosen.items():
        say(f"choosing among captions: {name}")
        yield or_why_not(f"What is chosen: {name}", lambda: _chosen(folder, run, name, settings, options))  # noqa: B023


# ---------------------------------------------------------------- retrieval


def _retrieved(folder: Path, run: RunConfig, options: ExhibitOptions) -> Retrieved:
    settings = _judged_on(run, options)
    evaluator = retrieval_evaluator("report", settings, run)
    retriever = _retriever(folder, run, averaged=settings.ema)
    items = evaluator.items
    with bar_of(items, name=f"embed {items.shards.name}") as beat:
        found = embed_set(retriever, retriever.tokenizer, items, beat=beat).compared()
    again = _Again(evaluator, retriever) if evaluator.scorers else None
    texts = middle(len(found.captions), count=min(_ANSWERS, len(found.captions)))
    some = answers(found, texts=texts, first=min(_FIRST, len(found.keys)))
    shown = {found.numbers[video]: video for answer in some for video in answer.found}
    frames = items.views_of(shown)
    return Retrieved(
        shards=items.shards,
        checkpoint=resolve_checkpoint(folder),
        found=found,
        scores=retrieval_scores(found.similarity, found.right),
        answers=some,
        frames={shown[number]: views[0] for number, views in frames.items()},
        resized=resized_how([items.request.antialias]),
        again=None if again is None else again.scores,
        reranked_ranks=() if again is None else again.ranks_of(texts),
    )


@dataclass
class _Again:
    """The scores by what ranks besides similarity."""

    evaluator: RetrievalEvaluator
    retriever: Retriever

    def __post_init__(self) -> None:
        with bar_of(self.evaluator.items, name=f"re-rank {self.evaluator.items.shards.name}") as beat:
            self.scores: Scores = self.evaluator.run(self.retriever.model, ALONE, beat=beat, predictions=True)

    def ranks_of(self, texts: list[int]) -> tuple[int, ...]:
        """Of the videos of some captions after re-ranking, from 1; none without it."""
        ranks = (self.scores.predictions or {}).get("reranked_rank")
        return () if ranks is None else tuple(ranks[text] for text in texts)


def _judged_on(run: RunConfig, options: ExhibitOptions) -> RetrievalEvaluation:
    """The first evaluation of its kind; or the set that is named, or the folder beside the training set, seen in the
    same way. Raises DataError where there is none."""
    own = next((one for one in run.evaluation.values() if isinstance(one, RetrievalEvaluation)), None)
    settings = own or RetrievalEvaluation(kind="retrieval", shards="none")
    if own is None or options.val is not None:
        hint = "name held-out shards with captions: --val SHARDS"
        shards = options.val or held_out_beside(training_shards(run, hint=hint), ["retrieval", "val"], hint=hint)
        settings = settings.model_copy(update={"shards": str(shards)})
    return settings.model_copy(update={"limit": min(settings.limit or options.max_clips, options.max_clips)})


def _retriever(folder: Path, run: RunConfig, *, averaged: bool) -> Retriever:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return build_retriever(run, folder, device=device, averaged=averaged)


# ---------------------------------------------------------------- multiple choice


def _chosen(
    folder: Path, run: RunConfig, name: str, settings: MultipleChoiceEvaluation, options: ExhibitOptions
) -> Exhibit:
    limit = min(settings.limit or options.max_clips, options.max_clips)
    evaluator = multiple_choice_evaluator(name, settings.model_copy(update={"limit": limit}), run)
    return answered_clips(
        f"What is chosen: {name}",
        evaluator,
        _retriever(folder, run, averaged=settings.ema).model,
        _told,
        is_right="is_right",
        checkpoint=resolve_checkpoint(folder),
    )


def _told(row: Row, frames: Tensor) -> AnsweredClip:
    options, scores = row["options"], row["score"]
    order = sorted(range(len(options)), key=lambda place: -scores[place])
    choices = tuple(Choice(options[place], {"score": scores[place]}) for place in order)
    return AnsweredClip(row["key"], None, choices, (options[row["answer"]],), row["is_right"], frames)
