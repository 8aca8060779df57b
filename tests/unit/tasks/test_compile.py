"""`engine.compile`: the same numbers, the same names, and one compilation for all blocks of a tower."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from umt_ds.batch import Batch
from umt_ds.config.load import load_run
from umt_ds.config.tasks.stage1 import Stage1Config
from umt_ds.tasks.stage1.task import Stage1Task

TOWER = "{image_size: 16, patch_size: 8, width: 32, layers: 4, heads: 2, out_width: 16}"
CLIPS, FRAMES = 3, 2


@pytest.fixture
def task() -> Stage1Task:
    config = load_run(
        "demo/stage1",
        ["task.student.preset=pocket", "task.student.image_size=16", f"task.student.frames={FRAMES}",
         "task.student.drop_path=0.5", f"task.teacher.tower={TOWER}", "task.teacher.weights=random",
         "task.teacher.layers=2", "task.mask.ratio=0.5"],
    ).task  # fmt: skip
    assert isinstance(config, Stage1Config)
    return Stage1Task(config, seed=0, device=torch.device("cpu"), precision="fp32")


def loss_and_gradients(task: Stage1Task) -> tuple[torch.Tensor, list[torch.Tensor]]:
    pixels = np.random.default_rng(0).integers(0, 256, (CLIPS, FRAMES, 16, 16, 3), dtype=np.uint8)
    numbers = torch.arange(CLIPS)
    batch = Batch("video", torch.from_numpy(pixels), draws=numbers, slots=numbers, keys=("a", "b", "c"))
    loss = task.module(task.prepare(batch, 5)).total
    return loss.detach(), list(torch.autograd.grad(loss, list(task.module.parameters())))


def test_compiled_blocks_give_the_same_loss_and_gradients_under_the_same_names(task: Stage1Task) -> None:
    names = list(task.module.state_dict())
    plain, plain_gradients = loss_and_gradients(task)
    torch._dynamo.reset()
    counters.clear()

    task.accelerate(compile=True, graph=False)
    loss, gradients = loss_and_gradients(task)

    assert counters["stats"]["unique_graphs"] == 2, "one block of the student and one of the teacher"
    torch.testing.assert_close(loss, plain)
    for gradient, expected in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    assert list(task.module.state_dict()) == names
