"""Settings of evaluations: what a run is judged by, while it trains and afterwards (`umt eval`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from umt_ds.config.section import Section
from umt_ds.config.values import Count, CountAboveOne, Part, Place, Positive, Text


class EvaluationSettings(Section):
    """What every evaluation has. `kind` tells them apart."""

    shards: Place = Field(description="folder or URL of held-out shards")
    limit: CountAboveOne | None = Field(None, description="only the first so many: shards lie in hashed order")
    batch: Count = Field(16, description="clips that go through the model together; the scores do not depend on ranks")
    max_left_out: Part = Field(
        0.01,
        description="share of the clips that may be missing in a score, because they cannot be read or lack what is "
        "asked for; more is an error",
    )
    ema: bool = Field(False, description="judge the moving average of the weights (optim.ema_decay)")
    in_training: bool = Field(True, description="false: not while the run trains, only by `umt eval` (a long test)")

    @property
    def places(self) -> Mapping[str, Place]:
        """All shards that it names, by key."""
        return {"shards": self.shards}

    @property
    def answer_lists(self) -> Mapping[str, Place]:
        """The lists of answers that it reads, by key."""
        return {}

    @property
    def looks_at_training_clips(self) -> bool:
        """Whether clips of the run's own first source are looked at, too."""
        return False

    @property
    def views(self) -> int:
        """In which each clip is shown."""
        return 1

    @property
    def looks(self) -> int:
        """How often each clip is read and encoded."""
        return 1

    @property
    def pairs_a_clip(self) -> int:
        """Pairs of clip and text that go through fusion layers, for each clip that has one text: at most."""
        return 0

    @property
    def clips_a_pass(self) -> int:
        """That go through the model together, in all their views: as many as `batch` views are, or else one."""
        return max(1, self.batch // self.views)


class KnnEvaluation(EvaluationSettings):
    """kNN accuracy of frozen features for each label, and RankMe, which needs no labels."""

    kind: Literal["knn"]
    limit: CountAboveOne | None = Field(
        2000,
        description="only the first so many clips of `shards`, and of `voters`: shards lie in hashed order; null: all, "
        "which is a pass over the whole training set where that votes",
    )
    voters: Place | None = Field(
        None, description="labelled shards whose clips vote; default: the run's first source of clips"
    )
    labels: tuple[Text, ...] = Field((), description="fields of a sample's json; default: those that both sets have")
    neighbours: Count = 20
    temperature: Positive = 0.07

    @property
    def places(self) -> Mapping[str, Place]:
        return {"shards": self.shards} if self.voters is None else {"shards": self.shards, "voters": self.voters}

    @property
    def looks_at_training_clips(self) -> bool:
        return self.voters is None


class VideoTextEvaluation(EvaluationSettings):
    """What evaluations of video and text have in common: how clips are seen."""

    antialias: bool | None = Field(None, description="how frames are resized; default: as the run's own clips")
    frames: Literal["stored", "published"] = Field(
        "stored",
        description="the middle of each part of the stored frames; or of all frames of the video, as published scores, "
        "which wants shards made with umt-data … --views retrieval:T for the T frames of the run's clips",
    )


class Reranking(Section):
    """Which pairs of video and text the fusion encoder scores (METHOD.md, "Retrieval")."""

    candidates: Count = Field(
        128, description="for each video so many texts, and for each text so many videos: the most similar (k_test)"
    )
    pairs: Count = Field(
        256, description="texts that go through the fusion encoder with a video together; scores do not depend on it"
    )


class DualSoftmax(Section):
    """Similarities weighed by softmaxes over all videos and texts of a test set: no published UMT score uses it."""

    temperature: Positive | Literal["search"] = Field(
        "search", description="of those softmaxes; search: the best of a grid on this very set, which flatters"
    )


class RetrievalEvaluation(VideoTextEvaluation):
    """Retrieval both ways, by the similarity of embeddings, and by the fusion encoder among the most similar."""

    kind: Literal["retrieval"]
    caption: Text = Field("caption", description="field of a sample's json with its text, or a list of texts")
    rerank: Reranking | None = Field(None, description="score the most similar pairs with the fusion encoder, too")
    dual_softmax: DualSoftmax | None = Field(None, description="score by softmaxes over all queries, too")

    @property
    def looks(self) -> int:
        return 1 if self.rerank is None else 2  # the tokens of all clips do not fit into memory

    @property
    def pairs_a_clip(self) -> int:
        return 0 if self.rerank is None else 2 * self.rerank.candidates


class MultipleChoiceEvaluation(VideoTextEvaluation):
    """Which of the captions of an item fits its video: .7 of matching and .3 of similarity.

    Source: METHOD.md, "Multiple choice".
    """

    kind: Literal["multiple_choice"]
    options: Text = Field("options", description="field of an item with the list of its captions")
    answer: Text = Field("answer", description="field of an item with the place of the right one, from 0")


class Generation(Section):
    """Answers that the decoder writes freely."""

    beams: Count = Field(1, description="that are followed at a time; 1: greedy")


class QuestionAnsweringEvaluation(VideoTextEvaluation):
    """Accuracy of the answers to questions: exact match with the best of a list, or with what is written freely.

    Source: METHOD.md, "Question answering".
    """

    kind: Literal["question_answering"]
    answers: Place | None = Field(
        None, description="json list of the answers to choose from (umt-data answers); null: answers are written freely"
    )
    candidates: Count = Field(
        128, description="answers of the list that are scored whole: those with the likeliest first piece (k_test)"
    )
    generate: Generation | None = Field(None, description="also score answers that are written freely")

    @property
    def answer_lists(self) -> Mapping[str, Place]:
        return {} if self.answers is None else {"answers": self.answers}

    @model_validator(mode="after")
    def _some_way(self) -> QuestionAnsweringEvaluation:
        if self.answers is None and self.generate is None:
            raise ValueError("neither answers, a list to choose from, nor generate, to write freely")
        return self


class ClassificationEvaluation(EvaluationSettings):
    """Top-1 and top-5 accuracy of a classifier over segments x crops of each clip: softmax of each view, then mean.

    Source: METHOD.md, "Views in testing".
    """

    kind: Literal["classification"]
    rule: Literal["recognition", "ssv2"] = Field(
        "recognition", description="which frames a segment has: those of Kinetics and Moments in Time, or of SSv2"
    )
    segments: int = Field(
        1, gt=0, le=99, description="clips of each video, at different offsets in time (ssv2: 1 or 2)"
    )
    crops: int = Field(1, gt=0, le=99, description="squares of each frame along its long side; 1: the centre")
    frames: Literal["stored", "published"] = Field(
        "stored",
        description="of the frames that the set stores; or of all frames of the video, as published scores, which "
        "wants shards made with umt-data … --views RULE:FRAMESxSEGMENTS",
    )
    batch: Count = Field(16, description="views that go through the model together (at least those of one clip)")

    @property
    def views(self) -> int:
        return self.segments * self.crops

    @model_validator(mode="after")
    def _segments_of_ssv2(self) -> ClassificationEvaluation:
        if self.rule == "ssv2" and self.segments > 2:
            raise ValueError(f"rule: ssv2 has 1 or 2 segments, not {self.segments}")
        return self


EvaluationConfig = Annotated[
    KnnEvaluation
    | RetrievalEvaluation
    | ClassificationEvaluation
    | MultipleChoiceEvaluation
    | QuestionAnsweringEvaluation,
    Field(discriminator="kind"),
]
_SETTINGS: dict[str, type[EvaluationSettings]] = {
    get_args(settings.model_fields["kind"].annotation)[0]: settings
    for settings in get_args(get_args(EvaluationConfig)[0])
}
EVALUATION_KINDS: tuple[str, ...] = tuple(_SETTINGS)
# What a model must have learned for them, beside what its video encoder sees.
READS_TEXT = frozenset(kind for kind, settings in _SETTINGS.items() if issubclass(settings, VideoTextEvaluation))
WRITES_ANSWERS = frozenset({"question_answering"})
