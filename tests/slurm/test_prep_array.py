"""umt-data with --engine slurm: a job array on a real Slurm makes the bytes that one machine makes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.files import hashes_in
from tests.support.videos import write_video, write_videos

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm")]
ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--name", "set", "--frames", "2", "--short-side", "16", "--per-shard", "2", "--workers", "1")


def umt_data(*words: str | Path, cluster: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "UMT_CLUSTER": str(cluster or "")}
    command = [sys.executable, "-m", "data_prep", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def wait_until(condition: Callable[[], bool], *, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_videos(tmp_path_factory.mktemp("videos"), 9, frames=3)
    (folder / "zero.mp4").touch()
    return folder


@pytest.fixture(scope="module")
def by_one_machine(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("local") / "set"
    done = umt_data("folder", videos, out, *SMALL, "--max-bad", "0.5")
    assert done.returncode == 0, done.stderr
    return hashes_in(out)


def test_an_array_of_two_tasks_makes_the_same_bytes(
    videos: Path, by_one_machine: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "set"
    array = ("--engine", "slurm", "--tasks", "2", "--wait")
    done = umt_data("folder", videos, out, *SMALL, "--max-bad", "0.5", *array)
    assert done.returncode == 0, done.stderr
    assert re.search(r"job \d+: 5 shards by 2 tasks; job \d+ then writes the manifest", done.stdout)
    assert "9 samples + 1 refused = 10 in all" in done.stdout
    assert hashes_in(out) == by_one_machine
    logs = [log.read_text() for log in sorted((out / ".umt-data" / "slurm").glob("*_[01].log"))]
    assert ["3 shards made" in logs[0], "2 shards made" in logs[1]] == [True, True]


def test_an_array_is_asked_for_by_the_habits_of_the_cluster(videos: Path, tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("partition: urgent\ntime: 1:10:00\ngpus_per_node: 8\n")
    array = ("--engine", "slurm", "--tasks", "1", "--sbatch=--comment='two words'", "--max-bad", "0.5", "--wait")
    done = umt_data("folder", videos, tmp_path / 'it\'s "my" 50%j', *SMALL, *array, cluster=cluster)
    assert done.returncode == 0, done.stderr
    assert "not used here, as they are for training: gpus_per_node" in done.stderr
    for job in re.findall(r"job (\d+)", done.stdout)[:2]:
        told = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
        for said in ("Partition=urgent", "TimeLimit=01:10:00", "Comment=two words"):
            assert said in told


def test_an_array_that_was_cancelled_is_continued_by_the_same_command(
    tmp_path: Path,
) -> None:
    videos, out = tmp_path / "videos", tmp_path / "set"
    write_video(videos / "v00.mp4", frames=40, size=(1920, 1080))
    for number in range(1, 40):  # work for many seconds, so that there is something to cancel
        (videos / f"v{number:02d}.mp4").symlink_to(videos / "v00.mp4")
    assert umt_data("folder", videos, tmp_path / "local", *SMALL).returncode == 0
    words = ("folder", videos, out, *SMALL, "--engine", "slurm", "--tasks", "1")
    first = umt_data(*words)
    assert first.returncode == 0, first.stderr
    jobs = re.findall(r"stop: {2}scancel (\d+) (\d+)", first.stdout)[0]
    wait_until(lambda: (out / ".umt-data" / "done" / "000000.json").exists())
    # held where it is: on a fast machine the array would be done before the two commands below have looked
    subprocess.run(["scancel", "--signal=STOP", "--full", jobs[0]], check=True)
    for engine in (words, ("folder", videos, out, *SMALL)):
        again = umt_data(*engine)
        assert again.returncode == 1
        assert f"job {jobs[0]} is already working in" in again.stderr
    subprocess.run(["scancel", *jobs], check=True)
    wait_until(lambda: not subprocess.run(["squeue", "-h", "-j", ",".join(jobs)], capture_output=True).stdout)
    assert not (out / "manifest.json").exists()
    last = umt_data(*words, "--wait")
    assert last.returncode == 0, last.stderr
    assert hashes_in(out) == hashes_in(tmp_path / "local")
