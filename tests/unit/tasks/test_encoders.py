"""The size of an encoder: by a name, or by its own numbers."""

from typing import Any

import pytest
from pydantic import ValidationError

from umt_ds.config.models import StudentConfig
from umt_ds.errors import ConfigError
from umt_ds.models.presets import VitSize, vit_size
from umt_ds.tasks.encoders import size_of

SIZES = {"width": 96, "depth": 3, "heads": 2, "patch": 32}


def student(**settings: Any) -> StudentConfig:
    return StudentConfig.model_validate(settings)


def test_an_encoder_has_the_size_of_its_name_or_its_own_numbers() -> None:
    assert size_of(student(preset="tiny")) == vit_size("tiny")
    assert size_of(student(preset="custom", sizes=SIZES, image_size=64)) == VitSize(
        width=96, depth=3, heads=2, patch=32
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"preset": "custom"}, "preset: custom and sizes belong together"),
        ({"preset": "tiny", "sizes": SIZES}, "preset: custom and sizes belong together"),
        ({"preset": "custom", "sizes": {**SIZES, "heads": 5}}, "width 96 is not a multiple of heads 5"),
    ],
)
def test_numbers_that_make_no_encoder_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        student(**settings)


def test_patches_that_do_not_fill_a_frame_are_refused() -> None:
    with pytest.raises(ConfigError, match="image_size=40 is not a multiple of 32") as raised:
        size_of(student(preset="custom", sizes=SIZES, image_size=40))
    assert raised.value.hint == "in its section of task: image_size: 32"
