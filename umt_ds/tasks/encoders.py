"""The size of the encoder that a run asks for."""

from __future__ import annotations

from umt_ds.config.models import StudentConfig
from umt_ds.errors import ConfigError
from umt_ds.models.presets import VitSize, vit_size


def size_of(student: StudentConfig) -> VitSize:
    """By its name, or its own numbers. Raises ConfigError where its patches do not fill a frame."""
    size = _size(student)
    if student.image_size % size.patch:
        raise ConfigError(
            f"the encoder's image_size={student.image_size} is not a multiple of {size.patch}, the side of its patches",
            hint=f"in its section of task: image_size: {max(1, round(student.image_size / size.patch)) * size.patch}",
        )
    return size


def _size(student: StudentConfig) -> VitSize:
    sizes = student.sizes
    if sizes is not None:
        return VitSize(sizes.width, sizes.depth, sizes.heads, sizes.patch)
    assert student.preset != "custom", "it has sizes"
    return vit_size(student.preset)
