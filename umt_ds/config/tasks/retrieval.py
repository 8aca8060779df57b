"""Settings of video-text retrieval: fine-tuning the model of stage 2 to find texts for videos and videos for texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from umt_ds.config.models import BertConfig, PositionBase, StudentConfig, TeacherConfig
from umt_ds.config.section import Section
from umt_ds.config.tasks.base import ClipShape, Remarks, TaskSettings
from umt_ds.config.tasks.stage2 import ContrastiveConfig, LossWeights, MatchingConfig, MediaMasks, Stage2Config
from umt_ds.config.values import Count, PositiveOrNone

if TYPE_CHECKING:
    from umt_ds.config.run import RunConfig


class RetrievalLossWeights(Section):
    """What each part of the objective counts; 0 leaves it out."""

    vtc: PositiveOrNone = Field(1.0, description="video-text contrastive")
    vtm: PositiveOrNone = Field(1.0, description="video-text matching")


class RetrievalConfig(TaskSettings):
    """Video-text retrieval (UMT tables 10, 11, 17, 18; METHOD.md, "Retrieval"): stage 2 with VTC and VTM alone, nothing
    is hidden and no teacher looks. Multiple choice is trained so, too."""

    kind: Literal["retrieval"]
    encoder: StudentConfig = Field(StudentConfig(frames=12), description="the video transformer")
    positions: PositionBase | None = Field(
        None,
        description="the clip whose table of positions is stretched to that of the encoder, to keep what the weights "
        "know of another size or number of frames; null: the table of as many tokens as there are, as published",
    )
    text: BertConfig
    embed_width: Count = Field(512, description="of the space where videos and texts are compared")
    loss_weights: RetrievalLossWeights = RetrievalLossWeights()
    vtc: ContrastiveConfig = ContrastiveConfig()
    vtm: MatchingConfig = MatchingConfig()

    @model_validator(mode="after")
    def _something(self) -> RetrievalConfig:
        if not any(self.loss_weights.model_dump().values()):
            raise ValueError("all loss_weights are 0: there is nothing to learn")
        return self

    @property
    def objective(self) -> Stage2Config:
        """The same as settings of stage 2."""
        return Stage2Config(
            kind="stage2",
            student=self.encoder,
            positions=self.positions,
            text=self.text,
            teacher=None,
            mask=MediaMasks(image=None, video=None),
            embed_width=self.embed_width,
            loss_weights=LossWeights(**self.loss_weights.model_dump(), mlm=0, uta=0),
            vtc=self.vtc,
            vtm=self.vtm,
        )

    @property
    def clip_shape(self) -> ClipShape:
        return ClipShape(self.encoder.frames, self.encoder.image_size)

    @property
    def positions_of(self) -> ClipShape:
        base = self.positions
        return self.clip_shape if base is None else ClipShape(base.frames, base.image_size)

    @property
    def stretches_positions(self) -> bool:
        return self.positions is not None

    @property
    def summary(self) -> str:
        encoder, text = self.encoder, self.text
        losses = " + ".join(f"{weight:g} {name}" for name, weight in self.loss_weights.model_dump().items() if weight)
        return (
            f"retrieval: {encoder.preset}, {encoder.frames} frames of {encoder.image_size} px, and BERT "
            f"({text.preset}, {text.fusion_layers} layers for fusion, {text.max_tokens} tokens); {losses}"
        )

    @property
    def required_weights(self) -> Mapping[str, TeacherConfig | BertConfig]:
        return {"BERT": self.text}

    @property
    def compares_rows(self) -> Literal["of_rank", "of_all"] | None:
        return self.objective.compares_rows

    @property
    def works_in_pieces(self) -> bool:
        return True

    @property
    def mixes_media(self) -> bool:
        return True

    @property
    def recomputing(self) -> tuple[str, ...]:
        return ("task.encoder.checkpoint_blocks", "task.text.checkpoint_layers")

    @property
    def says(self) -> Literal["captions"]:
        return "captions"

    @property
    def judged_by(self) -> tuple[str, ...]:
        return ("retrieval", "multiple_choice", "knn")

    def refused(self, run: RunConfig) -> Remarks:
        if self.positions is not None and any(source.media == "image" for source in run.data.sources.values()):
            yield "task.positions", "an image has the positions of one frame, and none are stretched to it"

    def without_effect(self, run: RunConfig) -> Remarks:
        # what is said of the objective, in the words of this task; its other sections belong to stage 2 alone
        for key, why in self.objective.without_effect(run):
            own = key.replace(".student", ".encoder")
            if own.startswith(("task.encoder", "task.vtc", "task.vtm")):
                yield own, why
