"""Sets made in parts: by any tasks in any order, by Ray. The bytes are those of one machine."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from data_prep.cli import umt_data
from data_prep.clip import Clip, Listing, RunOptions, StoreOptions
from data_prep.making.cluster import Part, SlurmOptions, array_of, habits_not_used, ray_cluster, start_array
from data_prep.making.prepare import build_shards, close_set, prepare
from data_prep.sources.folder import list_folder
from data_prep.state.plan import load_plan, open_plan
from launchers.slurm import render_array
from tests.support.files import hashes_in
from tests.support.videos import write_video, write_videos
from umt_ds.errors import ConfigError, DataError, MachineError

STORE = StoreOptions(frames=2, short_side=16, per_shard=2)
ONE = RunOptions(workers=1)


@pytest.fixture(autouse=True)
def cluster_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cluster.yaml, whatever this user's says."""
    path = tmp_path / "cluster.yaml"
    path.touch()
    monkeypatch.setenv("UMT_CLUSTER", str(path))
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_videos(tmp_path_factory.mktemp("videos"), 7, frames=3)
    (folder / "zero.mp4").touch()
    return folder


@pytest.fixture(scope="module")
def whole(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "set"
    prepare(list_folder(videos).first_in_order(), out, name="set", store=STORE, run=ONE)
    return out


def test_a_dry_run_for_slurm_shows_what_would_be_asked_and_refuses_what_cannot_be(
    videos: Path, tmp_path: Path, cluster_file: Path
) -> None:
    cluster_file.write_text("partition: cpu\ntime: 1:00:00\n")
    words = ["folder", str(videos), str(tmp_path / "set"), "--engine", "slurm", "--dry-run"]
    done = CliRunner().invoke(umt_data, words, standalone_mode=False)
    assert "#SBATCH --partition=cpu\n  #SBATCH --time=1:00:00" in done.output
    for option in ("--array=0-3", "--time=soon"):
        failed = CliRunner().invoke(umt_data, [*words, "--sbatch", option], standalone_mode=False).exception
        assert isinstance(failed, ConfigError), option
    assert not (tmp_path / "set").exists()


def test_parts_share_no_shard_and_leave_none() -> None:
    shards = list(range(23))
    parts = [Part.parse(f"{number}/5").of_shards(shards) for number in range(5)]
    assert sorted(shard for part in parts for shard in part) == shards
    assert Part(2, 5).of_shards([2, 3, 22]) == [2, 22]  # the rest of a part after a stop is still of that part
    for text in ("5/5", "-1/5", "1", "a/b", ""):
        with pytest.raises(ConfigError, match="is no part"):
            Part.parse(text)


def test_parts_made_in_any_order_by_a_plan_read_from_the_folder_make_the_set(
    videos: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    open_plan(out, name="set", listing=list_folder(videos).first_in_order(), store=STORE)
    for number in (2, 0):
        plan = load_plan(out)
        build_shards(plan, Part(number, 3).of_shards(plan.pending()), run=ONE)
    with pytest.raises(DataError, match=r"1 of the 4 shards of .* are not made yet \(1\)"):
        close_set(load_plan(out))
    assert not (out / "manifest.json").exists()
    plan = load_plan(out)
    build_shards(plan, Part(1, 3).of_shards(plan.pending()), run=ONE)
    close_set(load_plan(out))
    assert hashes_in(out) == hashes_in(whole)


def made_on_ray(videos: Path, out: Path) -> dict[str, str]:
    plan = open_plan(out, name="set", listing=list_folder(videos).first_in_order(), store=STORE)
    run = RunOptions(workers=2)
    with ray_cluster(None, workers=run.workers) as cluster:
        cluster.build(plan, plan.pending(), run=run)
    close_set(plan)
    return hashes_in(out)


@pytest.mark.slow
def test_ray_makes_the_same_bytes(videos: Path, whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="--engine ray needs ray")
    assert made_on_ray(videos, tmp_path / "set") == hashes_in(whole)


class RayOfOneThread:
    """What we ask of Ray, which takes long to start; a task is done before it is waited for."""

    exceptions = SimpleNamespace(RayTaskError=type("RayTaskError", (Exception,), {}))

    def __init__(self) -> None:
        self.running: dict[str, Any] = {}
        self.results: dict[object, Any] = {}
        self.done: list[object] = []
        self.most_at_once = 0

    def init(self, **options: Any) -> None:
        self.running = options

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.running["num_cpus"]), "memory": 1e9}

    def put(self, value: Any) -> Any:
        return value

    def get(self, task: object) -> Any:
        return self.results[task]

    def remote(self, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        def submit(work: Callable[..., Any], *arguments: Any) -> object:
            self.results[task := object()] = work(*arguments)
            return task

        return lambda work: SimpleNamespace(remote=partial(submit, work))

    def wait(self, tasks: list[object], *, num_returns: int) -> tuple[list[object], list[object]]:
        self.most_at_once = max(self.most_at_once, len(tasks))
        self.done += tasks[-num_returns:]
        return tasks[-num_returns:], tasks[:-num_returns]

    def shutdown(self) -> None:
        self.running = {}


def test_each_shard_is_a_task_of_ray(
    videos: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real tasks, of a Ray that is not: the real one is in `make test-slow`."""
    ray = RayOfOneThread()
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert made_on_ray(videos, tmp_path / "set") == hashes_in(whole)
    assert len(ray.done) == len(list(whole.glob("*.tar")))
    assert ray.running == {}, "it was shut down"


def test_ray_is_given_two_tasks_a_core_at_a_time_and_the_bar_counts_what_they_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = RayOfOneThread()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr("data_prep.making.prepare.map_ordered", lambda work, clips, **_: (work(clip) for clip in clips))
    listing = Listing(tmp_path, tuple(Clip(f"v{n}", f"v{n}.mp4") for n in range(9))).first_in_order()
    (tmp_path / "other.mp4").touch()  # the clips are missing, and their folder is there
    plan = open_plan(tmp_path / "set", name="set", listing=listing, store=StoreOptions(per_shard=1))
    with ray_cluster(None, workers=2) as cluster:
        assert cluster.cores == 2
        cluster.build(plan, plan.pending(), run=ONE)
    assert (ray.most_at_once, len(ray.done), plan.num_done()) == (4, 9, 9)
    assert "9/9" in (said := capsys.readouterr().err)
    assert "bad=9" in said


def test_videos_that_moved_continue_and_others_are_refused(videos: Path, tmp_path: Path) -> None:
    out, moved = tmp_path / "set", tmp_path / "moved"
    open_plan(out, name="set", listing=list_folder(videos).first_in_order(), store=STORE)
    moved.symlink_to(videos)
    plan = open_plan(out, name="set", listing=list_folder(moved).first_in_order(), store=STORE)
    assert load_plan(out) == plan
    write_video(tmp_path / "more" / "new.mp4", frames=2)
    with pytest.raises(ConfigError, match=r"8 clips are planned in .* and not in the list any more"):
        open_plan(out, name="set", listing=list_folder(tmp_path / "more").first_in_order(), store=STORE)


def test_the_sbatch_files_say_all_and_quote_strange_names(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    plan = open_plan(out, name="set", listing=list_folder(videos).first_in_order(), store=STORE)
    slurm = SlurmOptions(tasks=64, extra=("--partition=cpu",), logs=tmp_path / "logs")
    job = array_of(plan, RunOptions(workers=3), slurm, retry_failed=True)
    array, last = render_array(job)
    assert "#SBATCH --array=0-3" in array  # no more tasks than shards
    for line in ("#SBATCH --cpus-per-task=3", "#SBATCH --partition=cpu", f"#SBATCH --output={tmp_path}/logs/%A_%a.log"):
        assert line in array
    assert '--retry-failed --part "$SLURM_ARRAY_TASK_ID/4"' in array
    assert "#SBATCH --partition=cpu" in last
    assert f"-m data_prep finish {out}" in last
    quoted = render_array(array_of(plan, ONE, SlurmOptions(1, logs=tmp_path / "a 'b' 5%"), retry_failed=False))
    for text, log in zip(quoted, ("%A_%a.log", "finish.log"), strict=True):
        line = next(line for line in text.splitlines() if line.startswith("#SBATCH --output"))
        assert shlex.split(line)[-1] == f"--output={tmp_path}/a 'b' 5%%/{log}"


def test_a_record_of_jobs_that_cannot_be_read_is_one_error(videos: Path, tmp_path: Path) -> None:
    plan = open_plan(tmp_path / "set", name="set", listing=list_folder(videos).first_in_order(), store=STORE)
    job = array_of(plan, ONE, SlurmOptions(2), retry_failed=False)
    for text in ("", "{", '["a"]', "5", "\xff"):
        (plan.state / "slurm.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(DataError, match=r"slurm\.json does not hold job ids"):
            start_array(plan, job)


HABITS = """\
partition: gpu
account: vision
qos: night
constraint: ib
time: 2-00:00:00
modules: [cuda/12.4]
env: {AWS_PROFILE: "it's"}
sbatch: [--reservation=x]
container: umt.sqsh
gpus_per_node: 8
"""


def test_the_habits_of_the_cluster_are_in_both_files_and_options_win(
    videos: Path, tmp_path: Path, cluster_file: Path
) -> None:
    cluster_file.write_text(HABITS)
    plan = open_plan(tmp_path / "set", name="set", listing=list_folder(videos).first_in_order(), store=STORE)
    job = array_of(plan, ONE, SlurmOptions(2, extra=("--partition=cpu", "-t 30"), logs=tmp_path), retry_failed=False)
    options = ["--partition=cpu", "--account=vision", "--qos=night", "--constraint=ib", "--time=30", "--reservation=x"]
    for text in render_array(job):
        lines = text.splitlines()
        assert [line for option in options if (line := f"#SBATCH {option}") not in lines] == []
        assert "#SBATCH --partition=gpu" not in lines
        assert "module load cuda/12.4\n" in text
        assert "export AWS_PROFILE='it'\"'\"'s'\nexec " in text
        assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert habits_not_used(job) == ["gpus_per_node", "container"], "they are named, not skipped"


@pytest.mark.parametrize("option", ["--array=0-9", "-a 0-9", "--output=x", "--cpus-per-task=2", "-c4", "--ntasks=3"])
def test_options_that_the_array_sets_itself_are_refused(option: str, videos: Path, tmp_path: Path) -> None:
    plan = open_plan(tmp_path / "set", name="set", listing=list_folder(videos).first_in_order(), store=STORE)
    job = array_of(plan, ONE, SlurmOptions(2, extra=(option,), logs=tmp_path), retry_failed=False)
    with pytest.raises(ConfigError, match=f"{option} is what the job sets itself"):
        render_array(job)


@pytest.mark.parametrize("name", ["it's mine", "a;b $c `d`", "50%j", 'a"b', "日本　語", "a#b", "x" * 200])
def test_a_set_may_be_called_anything_that_is_one_line(name: str, videos: Path, tmp_path: Path) -> None:
    out = tmp_path / name
    plan = open_plan(out, name=name, listing=list_folder(videos).first_in_order(), store=STORE)
    job = array_of(plan, ONE, SlurmOptions(2, logs=tmp_path / "50%j"), retry_failed=False)
    for text in render_array(job):
        words = [shlex.split(line)[-1] for line in text.splitlines() if line.startswith("#SBATCH --job-name")]
        assert words in ([f"--job-name={name}"], [f"--job-name={name}-finish"])
        assert f"--output={tmp_path}/50%%j/" in text
        assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    for text in ("\nrm -rf x", "\udcff", "\\"):
        for odd in (replace(job, out=f"{out}{text}"), replace(job, name=text), replace(job, folder=Path(f"/x{text}"))):
            with pytest.raises(ConfigError, match=r"more than one line|Slurm does not keep"):
                render_array(odd)


def test_a_job_is_noted_before_anything_else_can_fail(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm takes the array and refuses the job that ends it: the array works, and must not be forgotten."""
    (script := tmp_path / "sbatch").write_text('#!/bin/sh\ncase "$*" in *afterany*) exit 1;; esac; echo 41\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    plan = open_plan(tmp_path / "set", name="set", listing=list_folder(videos).first_in_order(), store=STORE)
    with pytest.raises(MachineError, match="sbatch refused"):
        start_array(plan, array_of(plan, ONE, SlurmOptions(2), retry_failed=False))
    assert json.loads((plan.state / "slurm.json").read_text()) == ["41"]
