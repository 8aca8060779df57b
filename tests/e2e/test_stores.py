"""`umt train` on shards that are not on a disk: from an object store the same run, from a stream an inexact one."""

from __future__ import annotations

from pathlib import Path
from urllib.request import urlopen

import pytest
import torch

from tests.support.jobs import STEPS, start_job, write_clips
from tests.support.object_store import s3_server, upload
from umt_ds.config.batching import plan_run
from umt_ds.config.load import load_run
from umt_ds.distributed.world import World
from umt_ds.engine.manifest import read_checkpoint_manifest, resolve_checkpoint
from umt_ds.engine.metrics_file import read_metrics
from umt_ds.keyed import add_digests
from umt_ds.report.compare_runs import compare_runs
from umt_ds.tasks.loader import build_loader

pytestmark = pytest.mark.e2e


def digests_from_disk(run: Path, shards: Path) -> list[str]:
    """What the run should have shown, by a loader that reads the local shards."""
    config = load_run(str(run / "config.yaml"), [f"data.sources.demo.shards={shards}", "data.workers=0"])
    alone = World.alone()
    loader = build_loader(config, plan_run(config, world=1, num_samples=11), alone, device=torch.device("cpu"))
    return [f"{add_digests(*(b.digest for b in loader.micro_batches(step))):016x}" for step in range(STEPS)]


def test_two_ranks_train_from_an_object_store_that_keeps_failing_and_from_a_command(tmp_path: Path) -> None:
    """Each request is throttled, reset, cut or left without an answer twice."""
    shards = write_clips(tmp_path / "shards")
    with s3_server("sets", module="tests.support.faulty_s3") as server:
        there = upload(shards, "s3://sets/clips")
        job = start_job(tmp_path / "stored", there, f"data.cache.folder={tmp_path / 'cache'}")
        job.wait(code=0, says="the loader fetched")
        with urlopen(f"{server['AWS_ENDPOINT_URL']}/faults") as answer:
            faults = set(answer.read().decode().split())
        assert faults & {"503", "429", "reset", "cut", "stall"}, "nothing failed"
    metrics = read_metrics(job.run)
    assert [metrics[step]["digest"] for step in range(1, STEPS + 1)] == digests_from_disk(job.run, shards)
    assert any(path.is_file() for path in (tmp_path / "cache").rglob("*"))
    streamed = start_job(tmp_path / "streamed", f"pipe:cat {shards}/tiny-{{000000..000001}}.tar")
    streamed.wait(code=0, says="this run is inexact: demo is streamed")
    inexact = [read_checkpoint_manifest(resolve_checkpoint(run)).inexact for run in (job.run, streamed.run)]
    assert inexact == [[], ["demo"]]
    comparison = compare_runs(job.run, streamed.run, rtol=1e-5)
    assert comparison.different == STEPS
    assert "streamed, so no two runs show the same clips: demo" in comparison.text()
