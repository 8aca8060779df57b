"""Which label a run learns is said by its task: the loader reads that field, and a benchmark stands in for it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch

from tests.support.shards import write_shards
from umt_ds.batch import Batch
from umt_ds.bench.rate import plan_of
from umt_ds.bench.synthetic import SyntheticBatches
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.stage1 import Stage1Config
from umt_ds.distributed.job import Job
from umt_ds.distributed.world import World
from umt_ds.tasks.loader import build_loader

CPU = torch.device("cpu")
PLAN = plan_of(4)


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    """Each sample's label is its number."""
    shards = write_shards(tmp_path / "set", (4, 4))
    small = ["task.student.frames=1", "task.student.image_size=32", "data.num_sample=1", "data.workers=0"]
    return load_run("demo/stage1", [f"data.sources={{demo: {{shards: {shards}}}}}", *small])


def first_batches(run: RunConfig) -> tuple[Batch, Batch]:
    """Of the loader, and of a benchmark."""
    with closing(build_loader(run, PLAN, World.alone(), device=CPU)) as loader:
        (read,) = loader.micro_batches(0)
    (noise,) = SyntheticBatches(run, PLAN, Job(World.alone(), CPU), shown="video").micro_batches(0)
    return read, noise


def test_a_task_without_a_label_reads_none(run: RunConfig) -> None:
    assert [batch.targets.labels for batch in first_batches(run)] == [None, None]


def test_the_label_of_the_field_that_the_task_names_is_read(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stage1Config, "label_field", property(lambda task: "label"))
    read, noise = first_batches(run)
    assert read.targets.labels is not None
    assert [f"clip-{label:04d}" for label in read.targets.labels.tolist()] == list(read.keys)
    assert noise.targets.labels is not None
    assert noise.targets.labels.tolist() == [0, 1, 0, 1]
