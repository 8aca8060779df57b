"""Settings of stage 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from umt_ds.config.data import SourceConfig
from umt_ds.config.models import MaskConfig, StudentConfig, TeacherConfig
from umt_ds.config.tasks.base import ClipShape, PublishedRun, Remarks, TaskSettings

if TYPE_CHECKING:
    from umt_ds.config.run import RunConfig


class Stage1Config(TaskSettings):
    """Masked video distillation from a frozen teacher (UMT section 3.1)."""

    kind: Literal["stage1"]
    student: StudentConfig = StudentConfig()
    teacher: TeacherConfig
    mask: MaskConfig = MaskConfig()
    loss: Literal["l2", "mse", "smooth_l1"] = "l2"

    @property
    def clip_shape(self) -> ClipShape:
        return ClipShape(self.student.frames, self.student.image_size)

    @property
    def summary(self) -> str:
        student, teacher, mask, loss = self.student, self.teacher, self.mask, self.loss
        return (
            f"stage1: {student.preset} student, {student.frames} frames of {student.image_size} px, imitates the "
            f"last {teacher.layers} layers of {teacher.preset} ({teacher.weights}); {mask.kind} mask, "
            f"ratio {mask.ratio:g}; {loss} loss"
        )

    @property
    def required_weights(self) -> Mapping[str, TeacherConfig]:
        return {"teacher": self.teacher}

    @property
    def published(self) -> PublishedRun | None:
        hours = {"vit_b16": 60, "vit_l16": 90}.get(self.student.preset)
        return None if hours is None else PublishedRun(hours, 32, 658_000, 200, {"video": 1.0})

    @property
    def has_teacher(self) -> bool:
        return True

    @property
    def recomputing(self) -> tuple[str, ...]:
        return ("task.student.checkpoint_blocks",)

    @property
    def judged_by(self) -> tuple[str, ...]:
        return ("knn",)

    def refused(self, run: RunConfig) -> Remarks:
        for name, source in run.data.sources.items():
            at = f"data.sources.{name}"
            if source.caption != SourceConfig.model_fields["caption"].default:
                yield f"{at}.caption", "stage 1 reads no captions"
            if source.media == "image" and self.student.frames > 1:
                frames = self.student.frames
                yield f"{at}.media", f"an image has one frame, and task.student.frames={frames} are trained on"

    def without_effect(self, run: RunConfig) -> Remarks:
        if self.mask.ratio == 0:
            yield "task.mask.kind", "task.mask.ratio=0 hides nothing"
