"""Settings of the CLIP that teaches the demo."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from umt_ds.config.models import TowerConfig
from umt_ds.config.section import Section
from umt_ds.config.tasks.base import ClipShape, TaskSettings
from umt_ds.config.values import Count, CountAboveOne


class ClipTextConfig(Section):
    """open_clip's text tower by its numbers (its own BPE vocabulary)."""

    width: Count = 128
    layers: Count = 2
    heads: Count = 4
    context_length: CountAboveOne = 32


class ImageTextConfig(TaskSettings):
    """Contrastive training of a CLIP on single frames with captions: makes the demo's own teacher."""

    kind: Literal["image_text"]
    tower: TowerConfig
    text: ClipTextConfig = ClipTextConfig()
    pixels: Literal["imagenet", "clip"] = Field("imagenet", description="mean and std of the image tower's input")

    @property
    def clip_shape(self) -> ClipShape:
        return ClipShape(1, self.tower.image_size)

    @property
    def summary(self) -> str:
        tower = self.tower
        return (
            f"image_text: a CLIP of {tower.layers} layers, width {tower.width}, on single frames of "
            f"{tower.image_size} px with captions"
        )
