"""Settings of the toy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from umt_ds.config.tasks.base import ClipShape, TaskSettings
from umt_ds.config.values import Count, CountAboveOne, Text


class ToyConfig(TaskSettings):
    """A label told by the mean colours of a clip, cell by cell of a grid."""

    kind: Literal["toy"]
    classes: CountAboveOne
    label: Text = Field("label", description="field of a sample's json with the number of its class")
    frames: Count = 2
    image_size: Count = 32
    cells: Count = Field(4, description="of the grid, along each side; divides image_size")

    @property
    def clip_shape(self) -> ClipShape:
        return ClipShape(self.frames, self.image_size)

    @property
    def summary(self) -> str:
        return f"toy: one of {self.classes} classes by the colours of {self.cells} x {self.cells} cells"

    @property
    def label_field(self) -> str:
        return self.label

    @property
    def judged_by(self) -> tuple[str, ...]:
        return ("accuracy",)
