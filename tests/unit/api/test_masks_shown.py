"""The masks that training draws, by hand: the attention of a run's teacher, what is kept by it, what is left to see."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.tiny_runs import make_config, write_run
from umt_ds.api import masks
from umt_ds.config.load import load_run
from umt_ds.config.models import TeacherConfig
from umt_ds.errors import ConfigError, DataError
from umt_ds.masking import MaskPlan
from umt_ds.tasks.teacher import load_teacher

FRAMES = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_attention_is_that_of_the_teacher_of_the_run(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    teacher = masks.load_frozen_teacher(write_run(config))
    settings = config.task.required_weights["teacher"]
    assert isinstance(settings, TeacherConfig)
    expected = load_teacher(settings)[0].attend(FRAMES[None]).attention
    attention = teacher.attention(FRAMES)
    assert attention.shape == (3, *teacher.grid) == (3, 2, 2)
    assert expected is not None
    assert torch.equal(attention.flatten(1), expected[0])
    assert torch.equal(teacher.attention(FRAMES.numpy()), attention)
    with pytest.raises(DataError, match=r"frames of shape \[16, 16, 3\]"):
        teacher.attention(FRAMES[0])


def test_a_run_without_a_teacher_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no frozen teacher"):
        masks.load_frozen_teacher("demo/recognition")
    assert load_run("demo/recognition").task.required_weights == {}


def test_kept_patches_are_those_that_training_draws() -> None:
    attention = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(1))
    for kind in ("semantic", "tube", "random"):
        keep = masks.keep_patches(attention, ratio=0.75, kind=kind, seed=7, step=2)  # type: ignore[arg-type]
        plan, slots = MaskPlan(kind, 0.75), torch.zeros(1, dtype=torch.int64)  # type: ignore[arg-type]
        drawn = plan.keep(attention.view(1, 3, 20), seed=7, step=2, slots=slots, frames=3, patches=20)
        assert torch.equal(keep, drawn[0])
    with pytest.raises(ConfigError, match="cannot hide"):
        masks.keep_patches(attention, ratio=1.0)


def test_all_but_the_kept_patches_are_dark() -> None:
    frames = torch.full((1, 4, 4, 3), 200, dtype=torch.uint8)
    shown = masks.shade(frames, torch.tensor([3]), (2, 2))
    assert shown[0, 2:, 2:].unique().tolist() == [200]
    assert shown[0, :2].unique().tolist() == [44]
    with pytest.raises(DataError, match="patches 0 to 4 are kept, and 1 frames of 2 x 2 have 4"):
        masks.shade(frames, torch.tensor([0, 4]), (2, 2))


def test_a_spotlight_is_as_bright_as_what_is_looked_at() -> None:
    frames = torch.full((1, 4, 4, 3), 200, dtype=torch.uint8)
    shown = masks.spotlight(frames, torch.tensor([[[0.1, 0.2], [0.0, 0.4]]]))
    assert shown[0, ::2, ::2, 0].tolist() == [[50, 100], [0, 200]]
    with pytest.raises(DataError, match="is not that of 1 frames"):
        masks.spotlight(frames, torch.rand(2, 2, 2))
