"""`task.teacher.precision=fp8` in every task that has a teacher: it is quantised, or the log says why not."""

from __future__ import annotations

import logging

import pytest
import torch

from tests.support.tiny_towers import TOWERS
from umt_ds.config.load import load_run
from umt_ds.errors import ConfigError
from umt_ds.losses.masked_lm import Vocabulary
from umt_ds.models.teachers import Teacher
from umt_ds.models.towers import ClipTower
from umt_ds.tasks import teacher as teachers
from umt_ds.tasks.stage1.task import Stage1Task
from umt_ds.tasks.stage2.task import Stage2Task

CPU = torch.device("cpu")
FP8 = ("task.teacher.weights=random", "task.teacher.precision=fp8")


def teacher_of(name: str) -> Teacher | None:
    """That of a demo recipe, in bf16 but for what its precision says."""
    if name == "demo/stage1":
        task = load_run(name, FP8).task
        assert task.kind == "stage1"
        return Stage1Task(task, seed=0, device=CPU, precision="bf16").teacher
    task = load_run(name, FP8).task
    assert task.kind == "stage2"
    words = Vocabulary(60, cls_id=2, pad_id=0, mask_id=4)
    return Stage2Task(task, seed=0, device=CPU, precision="bf16", vocabulary=words).teacher


@pytest.mark.parametrize("name", ["demo/stage1", "demo/stage2"])
def test_the_teacher_of_each_stage_multiplies_in_fp8(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teachers, "why_no_fp8", lambda device, dtype: None)
    teacher = teacher_of(name)
    assert teacher is not None
    assert isinstance(teacher.tower, ClipTower)
    assert all(block._fp8 for block in teacher.tower.blocks)


@pytest.mark.parametrize("name", ["demo/stage1", "demo/stage2"])
def test_where_it_does_not_pay_the_log_says_why(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("umt_ds"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="umt_ds"):
        teacher_of(name)
    assert "task.teacher.precision=fp8, but only a GPU multiplies FP8 faster" in caplog.text


def test_a_tower_that_has_no_fp8_products_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teachers, "why_no_fp8", lambda device, dtype: None)
    task = load_run("demo/stage1", FP8).task
    assert task.kind == "stage1"
    assert "tiny_dinov2" in TOWERS
    tiny = task.teacher.model_copy(update={"preset": "tiny_dinov2", "tower": None, "layers": 2})
    teacher, _ = teachers.load_teacher(tiny.model_copy(update={"weights": "random"}))
    with pytest.raises(ConfigError, match="teacher tiny_dinov2 has no products in FP8"):
        teachers.place_teacher(teacher, task.teacher, device=CPU, precision="bf16")
