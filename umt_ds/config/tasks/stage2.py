"""Settings of stage 2."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from umt_ds.config.models import BertConfig, MaskConfig, PositionBase, StudentConfig, TeacherConfig
from umt_ds.config.section import Section, refuse_backwards
from umt_ds.config.tasks.base import ClipShape, PublishedRun, Remarks, TaskSettings
from umt_ds.config.values import Count, PartBelowOne, Positive, PositiveOrNone

if TYPE_CHECKING:
    from umt_ds.config.run import RunConfig


class LossWeights(Section):
    """What each part of the objective counts; 0 leaves it out (UMT table 5)."""

    vtc: PositiveOrNone = Field(1.0, description="video-text contrastive")
    vtm: PositiveOrNone = Field(1.0, description="video-text matching")
    mlm: PositiveOrNone = Field(1.0, description="masked language modelling")
    uta: PositiveOrNone = Field(1.0, description="unmasked token alignment; without it no teacher and no semantic mask")


class ContrastiveConfig(Section):
    """Video-text contrast (METHOD.md, "VTC")."""

    gather: Literal["exact", "sliced"] = Field(
        "exact",
        description="gradient of the global batch at any number of ranks, or, as published, over that number for the "
        "encoders (as loss_weights.vtc=1/ranks has it)",
    )
    positives: Literal["caption", "sample"] = Field(
        "caption",
        description="what belongs together, here and in VTM: rows whose captions say the same, too, or, as published, "
        "rows of one sample alone",
    )
    temperature: Positive = Field(0.07, description="at the start; it is trained")
    bounds: tuple[Positive, Positive] = (0.001, 0.5)

    @model_validator(mode="after")
    def _in_order(self) -> ContrastiveConfig:
        refuse_backwards("bounds", self.bounds)
        return self

    @model_validator(mode="after")
    def _inside(self) -> ContrastiveConfig:
        low, high = self.bounds
        if low <= high and not low <= self.temperature <= high:
            raise ValueError(f"temperature {self.temperature} is not inside its bounds [{low}, {high}]")
        return self


class MatchingConfig(Section):
    """Video-text matching (METHOD.md, "VTM")."""

    negatives: Literal["local", "global"] = Field(
        "local", description="drawn from this rank's rows, as published, or from all ranks'"
    )
    hard: bool = Field(True, description="in proportion to softmax(similarity); false: evenly")


class MaskedWordsConfig(Section):
    """Masked language modelling (METHOD.md, "MLM")."""

    ratio: PartBelowOne = Field(0.5, gt=0, description="part of the tokens that is masked")
    mean: Literal["local", "global"] = Field(
        "local",
        description="mean over masked tokens of a rank, then over ranks, as published; or over all masked tokens",
    )


class MediaMasks(Section):
    """What the encoder does not see: of an image, of a clip. null hides nothing."""

    image: MaskConfig | None = MaskConfig(ratio=0.5)
    video: MaskConfig | None = MaskConfig(ratio=0.8)

    @model_validator(mode="after")
    def _one_view(self) -> MediaMasks:
        if any(mask is not None and mask.views > 1 for mask in (self.image, self.video)):
            raise ValueError("views is for stage 1: a caption belongs to one look at its clip")
        return self


class Stage2Config(TaskSettings):
    """Video-language pretraining on images and clips with captions (UMT section 3.2)."""

    kind: Literal["stage2"]
    student: StudentConfig = StudentConfig(frames=4)
    positions: PositionBase | None = Field(
        None,
        description="the clip whose table of positions is stretched to that of the encoder, to keep what the weights "
        "know of another size or number of frames; null: the table of as many tokens as there are, as published",
    )
    text: BertConfig
    teacher: TeacherConfig | None = None
    mask: MediaMasks = MediaMasks()
    embed_width: Count = Field(512, description="of the space where videos and texts are compared")
    loss_weights: LossWeights = LossWeights()
    vtc: ContrastiveConfig = ContrastiveConfig()
    vtm: MatchingConfig = MatchingConfig()
    mlm: MaskedWordsConfig = MaskedWordsConfig()
    loss: Literal["l2", "mse", "smooth_l1"] = Field("l2", description="of UTA")
    align_projections: Literal["none", "visual", "visual_text"] = Field(
        "none", description="draw the projections towards CLIP's own embeddings (UMT table 16)"
    )

    @model_validator(mode="after")
    def _teacher(self) -> Stage2Config:
        if self.teacher is None and (self.loss_weights.uta or self.align_projections != "none"):
            raise ValueError("loss_weights.uta and align_projections need a teacher; without one: loss_weights.uta: 0")
        return self

    @model_validator(mode="after")
    def _something(self) -> Stage2Config:
        if not any(self.loss_weights.model_dump().values()) and self.align_projections == "none":
            raise ValueError("all loss_weights are 0: there is nothing to learn")
        return self

    @property
    def needs_teacher(self) -> bool:
        """Whether anything is compared with the teacher."""
        return self.loss_weights.uta > 0 or self.align_projections != "none"

    def mask_of(self, medium: Literal["image", "video"]) -> MaskConfig | None:
        """How tokens of a medium are hidden; None where all are seen.

        Semantic masks belong to UTA: without it there are none, as in the paper's table 5 (METHOD.md, "Masking").
        """
        mask = self.mask.image if medium == "image" else self.mask.video
        if mask is None or mask.ratio == 0 or (mask.kind == "semantic" and not self.loss_weights.uta):
            return None
        return mask

    @property
    def clip_shape(self) -> ClipShape:
        return ClipShape(self.student.frames, self.student.image_size)

    @property
    def positions_of(self) -> ClipShape:
        base = self.positions
        return self.clip_shape if base is None else ClipShape(base.frames, base.image_size)

    @property
    def stretches_positions(self) -> bool:
        return self.positions is not None

    @property
    def summary(self) -> str:
        student, text, mask, weights = self.student, self.text, self.mask, self.loss_weights
        hidden = ", ".join(
            f"{medium} {plan.kind} {plan.ratio:g}"
            for medium, plan in (("image", mask.image), ("video", mask.video))
            if plan is not None and (weights.uta or plan.kind != "semantic")
        )
        losses = " + ".join(f"{weight:g} {name}" for name, weight in weights.model_dump().items() if weight)
        return (
            f"stage2: {student.preset} student, {student.frames} frames of {student.image_size} px, and BERT "
            f"({text.preset}, {text.fusion_layers} layers for fusion); masks: {hidden or 'none'}; {losses}"
        )

    @property
    def required_weights(self) -> Mapping[str, TeacherConfig | BertConfig]:
        return {"BERT": self.text} if self.teacher is None else {"teacher": self.teacher, "BERT": self.text}

    @property
    def published(self) -> PublishedRun | None:
        hours = {"vit_b16": 24, "vit_l16": 40}.get(self.student.preset)
        # the 25M corpus: 10.73 million clips among 25.68 million (table 27)
        shares: Mapping[Literal["image", "video"], float] = {"image": 14.95 / 25.68, "video": 10.73 / 25.68}
        return None if hours is None else PublishedRun(hours, 32, 25_680_000, 10, shares)

    @property
    def compares_rows(self) -> Literal["of_rank", "of_all"] | None:
        weights = self.loss_weights
        if weights.vtm and self.vtm.negatives == "local":
            return "of_rank"
        return "of_all" if weights.vtc or weights.vtm else None

    @property
    def works_in_pieces(self) -> bool:
        return True

    @property
    def mixes_media(self) -> bool:
        return True

    @property
    def has_teacher(self) -> bool:
        return True

    @property
    def recomputing(self) -> tuple[str, ...]:
        return ("task.student.checkpoint_blocks", "task.text.checkpoint_layers")

    @property
    def says(self) -> Literal["captions"]:
        return "captions"

    @property
    def judged_by(self) -> tuple[str, ...]:
        return ("knn", "retrieval", "multiple_choice")

    def judged_alone(self) -> Self:
        """Without its teacher, who sees as many patches as the student and so binds the size of the frames; decoders
        go with it. A student of UTA alone keeps it: without, there would be nothing to learn."""
        weights = self.loss_weights.model_copy(update={"uta": 0.0})
        if self.teacher is None or not any(weights.model_dump().values()):
            return self
        return self.model_copy(update={"teacher": None, "loss_weights": weights, "align_projections": "none"})

    def refused(self, run: RunConfig) -> Remarks:
        if self.positions is not None and any(source.media == "image" for source in run.data.sources.values()):
            yield "task.positions", "an image has the positions of one frame, and none are stretched to it"

    def without_effect(self, run: RunConfig) -> Remarks:
        yield from self._losses_without_effect()
        yield from self._masks_without_effect({source.media for source in run.data.sources.values()})
        if run.engine.graph and not self.needs_teacher:
            yield "engine.graph", "it replays the teacher, and there is none"

    def _losses_without_effect(self) -> Remarks:
        weights = self.loss_weights
        if self.teacher is not None and not self.needs_teacher:
            yield "task.teacher", "nothing is compared with it (task.loss_weights.uta=0, task.align_projections=none)"
        elif self.teacher is not None and not weights.uta:
            for name in ("layers", "interval", "norm", "features"):
                yield f"task.teacher.{name}", "task.loss_weights.uta=0, and only UTA aligns layers"
        if not weights.uta:
            yield "task.loss", "it is the loss of UTA, and task.loss_weights.uta=0"
        if not weights.vtc:
            yield "task.vtc.gather", "task.loss_weights.vtc=0"
        if not weights.vtc and not (weights.vtm and self.vtm.hard):
            for name in ("temperature", "bounds"):
                yield f"task.vtc.{name}", "no similarity counts (task.loss_weights.vtc=0, and no hard pairs for VTM)"
        if not weights.vtc and not weights.vtm:
            yield "task.vtc.positives", "no pairs count (task.loss_weights.vtc=0 and vtm=0)"
        if not weights.vtm:
            yield "task.vtm", "task.loss_weights.vtm=0"
        if not weights.mlm:
            yield "task.mlm", "task.loss_weights.mlm=0"

    def _masks_without_effect(self, shown: Collection[Literal["image", "video"]]) -> Remarks:
        if "video" not in shown:
            yield "task.student.frames", "an image has one frame, and no source has media: video"
        media: tuple[Literal["image", "video"], ...] = ("image", "video")
        for medium in media:
            mask = self.mask.image if medium == "image" else self.mask.video
            if mask is None:
                continue
            if medium not in shown:
                yield f"task.mask.{medium}", f"no source has media: {medium}"
            elif mask.ratio == 0:
                yield f"task.mask.{medium}.kind", "a ratio of 0 hides nothing"
            elif self.mask_of(medium) is None:
                yield (
                    f"task.mask.{medium}",
                    "semantic masks are for UTA, and task.loss_weights.uta=0: all is seen",
                )
