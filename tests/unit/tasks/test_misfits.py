"""Parts of a task that do not fit each other: one error that begins with the key, before any weights are read."""

from __future__ import annotations

import pytest

from umt_ds.config.load import load_run
from umt_ds.errors import ConfigError
from umt_ds.tasks.kinds import cost_of


@pytest.mark.parametrize(
    ("recipe", "override", "said"),
    [
        ("demo/stage1", "task.teacher.layers=20", "task.teacher: 20 layers at interval 1.0 do not fit"),
        ("demo/stage2", "task.teacher.layers=20", "task.teacher: 20 layers at interval 1.0 do not fit"),
        ("stage1/b16_k710", "task.teacher.preset=nope", "task.teacher: no teacher is called 'nope'"),
        (
            "stage1/b16_k710",
            "task.student.image_size=225",
            "the encoder's image_size=225 is not a multiple of 16, the side of its patches",
        ),
        (
            "stage1/b16_k710",
            "task.teacher.preset=aimv2_large_patch14_224",
            "task.mask.kind=semantic draws masks from the attention of a class token or a pooling head; "
            "aimv2_large_patch14_224 has neither",
        ),
        ("stage2/b16_5m", "task.text.fusion_layers=12", "task.text: fusion_layers=12 leaves none of 12 layers"),
    ],
)
def test_a_misfit_is_told_with_the_key_to_change(recipe: str, override: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        cost_of(load_run(recipe, [override], keep_unset=True), "bf16")
    assert raised.value.what.startswith(said)
    assert raised.value.hint is not None
