"""Settings of action recognition: fine-tuning a video encoder as a classifier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from umt_ds.config.data import SourceConfig
from umt_ds.config.models import PositionBase, StudentConfig
from umt_ds.config.section import Section
from umt_ds.config.tasks.base import ClipShape, Remarks, TaskSettings
from umt_ds.config.values import Count, CountAboveOne, Part, PartBelowOne, Positive, PositiveOrNone, Text
from umt_ds.errors import ConfigError

if TYPE_CHECKING:
    from umt_ds.config.run import RunConfig


class MixingConfig(Section):
    """Mixup and CutMix of whole clips inside groups of rows (METHOD.md, "Mixup and CutMix")."""

    mixup: PositiveOrNone = Field(0.8, description="alpha of the Beta distribution of mixup's share; 0: no mixup")
    cutmix: PositiveOrNone = Field(1.0, description="alpha of CutMix; 0: no CutMix")
    prob: Part = Field(1.0, description="part of the groups that are mixed")
    switch: Part = Field(0.5, description="where both are on: part of the mixed groups that CutMix takes")
    group: Count = Field(
        32,
        description="rows (views) of a step that share one draw and are mixed with each other in reverse order; even, "
        "and batch.micro × data.num_sample is a multiple of it. Published: all rows of a GPU",
    )

    @model_validator(mode="after")
    def _even(self) -> MixingConfig:
        if self.group % 2:
            raise ValueError(f"group {self.group} is odd: the row in the middle would be mixed with itself")
        if not self.mixup and not self.cutmix:
            raise ValueError("mixup and cutmix are both 0: leave mixing out (null)")
        return self


class RecognitionConfig(TaskSettings):
    """Naming what happens in a clip: fine-tuning (UMT tables 6 to 9 and 22; METHOD.md, "Recognition")."""

    kind: Literal["recognition"]
    encoder: StudentConfig = Field(StudentConfig(), description="the video transformer")
    classes: CountAboveOne | None = Field(
        None, description="rows of the head; default: as many as the class list of the first source has"
    )
    label: Text = Field("label", description="field of a sample's json with the number of its class")
    head: Literal["keep", "new"] = Field(
        "keep",
        description="keep: of init.weights with a head, its rows by the names of the classes (of a published head of "
        "710 rows, by those of Kinetics-710); new: begin it anew",
    )
    head_scale: Positive = Field(0.001, description="what a new head is multiplied with")
    positions: PositionBase = PositionBase()
    smoothing: PartBelowOne = Field(0.1, description="label smoothing: this part is spread over all classes")
    mixing: MixingConfig | None = MixingConfig()
    erasing: Part = Field(0.25, description="part of the views of which a box is replaced by noise")

    @property
    def changes_pixels(self) -> bool:
        """Whether views are erased or mixed: then they are normalised numbers before the model sees them."""
        return self.erasing > 0 or self.mixing is not None

    @property
    def clip_shape(self) -> ClipShape:
        return ClipShape(self.encoder.frames, self.encoder.image_size)

    @property
    def positions_of(self) -> ClipShape:
        return ClipShape(self.positions.frames, self.positions.image_size)

    @property
    def stretches_positions(self) -> bool:
        return True

    @property
    def summary(self) -> str:
        encoder = self.encoder
        classes = "the classes of its set" if self.classes is None else f"{self.classes} classes"
        return (
            f"recognition: {encoder.preset} names {classes} ({self.label}) in {encoder.frames} frames of "
            f"{encoder.image_size} px"
        )

    @property
    def label_field(self) -> str:
        return self.label

    @property
    def has_layers_to_decay(self) -> bool:
        return True

    @property
    def recomputing(self) -> tuple[str, ...]:
        return ("task.encoder.checkpoint_blocks",)

    @property
    def says(self) -> Literal["classes"]:
        return "classes"

    @property
    def judged_by(self) -> tuple[str, ...]:
        return ("classification", "knn")

    def refused(self, run: RunConfig) -> Remarks:
        for name, source in run.data.sources.items():
            at = f"data.sources.{name}"
            if source.caption != SourceConfig.model_fields["caption"].default:
                yield f"{at}.caption", "recognition reads no captions"
            if source.media == "image" and self.encoder.frames > 1:
                frames = self.encoder.frames
                yield f"{at}.media", f"an image has one frame, and task.encoder.frames={frames} are trained on"
        if self.mixing is not None:
            _refuse_part_of_a_group(self.mixing.group, rows=run.batch.micro * run.data.num_sample)

    def without_effect(self, run: RunConfig) -> Iterator[tuple[str, str]]:
        mixing = self.mixing
        if mixing is not None and not mixing.prob:
            yield "task.mixing", "prob is 0: nothing is mixed"
        elif mixing is not None and not (mixing.mixup and mixing.cutmix):
            yield "task.mixing.switch", "only one of mixup and cutmix is on"
        elif mixing is not None and mixing.switch in (0, 1):
            never = "mixup" if mixing.switch else "cutmix"
            yield f"task.mixing.{never}", f"switch {mixing.switch:g} takes the other one for every group"
        if run.init.weights is None and self.head == "new":
            yield "task.head", "no weights are taken from elsewhere (init.weights)"


def _refuse_part_of_a_group(group: int, *, rows: int) -> None:
    """Raises ConfigError where the rows of a micro-batch are not whole groups, with the group that fits them best."""
    if rows % group == 0:
        return
    fits = max((size for size in range(2, min(group, rows) + 1, 2) if rows % size == 0), default=None)
    raise ConfigError(
        f"task.mixing.group: a micro-batch has batch.micro × data.num_sample = {rows} rows, which is no multiple of "
        f"{group}",
        hint=f"{f'task.mixing.group={fits}' if fits else 'a batch.micro with an even number of rows'}, or "
        "task.mixing=null for no mixup and CutMix",
    )
