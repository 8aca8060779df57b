"""The size of the encoder that a run asks for."""

from __future__ import annotations

from umt_ds.config.models import StudentConfig
from umt_ds.models.presets import VitSize, vit_size


def size_of(student: StudentConfig) -> VitSize:
    """By its name, or its own numbers."""
    if student.preset == "custom":
        sizes = student.sizes
        assert sizes is not None
        return VitSize(sizes.width, sizes.depth, sizes.heads, sizes.patch)
    return vit_size(student.preset)
