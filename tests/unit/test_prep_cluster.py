"""Sets made in parts: by any tasks in any order, by Ray. The bytes are those of one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.clip import RunOptions, StoreOptions
from data_prep.cluster import Part, SlurmOptions, array_of, build_on_ray
from data_prep.manifest import finish, load_plan, open_plan
from data_prep.prepare import build_shards, close_set, prepare
from data_prep.sources.folder import list_folder
from launchers.slurm import render_array
from tests.support.files import hashes_in
from tests.support.videos import write_video, write_videos
from umt_ds.errors import ConfigError, DataError

STORE = StoreOptions(frames=2, short_side=16, per_shard=2)
ONE = RunOptions(workers=1)


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
        finish(load_plan(out))
    assert not (out / "manifest.json").exists()
    plan = load_plan(out)
    build_shards(plan, Part(1, 3).of_shards(plan.pending()), run=ONE)
    close_set(load_plan(out))
    assert hashes_in(out) == hashes_in(whole)


def test_ray_makes_the_same_bytes(videos: Path, whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="--engine ray needs ray")
    out = tmp_path / "set"
    plan = open_plan(out, name="set", listing=list_folder(videos).first_in_order(), store=STORE)
    build_on_ray(plan, plan.pending(), run=RunOptions(workers=2), address=None)
    close_set(plan)
    assert hashes_in(out) == hashes_in(whole)


def test_videos_that_moved_continue_and_others_are_refused(videos: Path, tmp_path: Path) -> None:
    out, moved = tmp_path / "set", tmp_path / "moved"
    open_plan(out, name="set", listing=list_folder(videos).first_in_order(), store=STORE)
    moved.symlink_to(videos)
    plan = open_plan(out, name="set", listing=list_folder(moved).first_in_order(), store=STORE)
    assert load_plan(out) == plan
    write_video(tmp_path / "more" / "new.mp4", frames=2)
    with pytest.raises(ConfigError, match="begun with another clips 8 → 1"):
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
    with pytest.raises(Exception, match="white space"):
        render_array(array_of(plan, ONE, SlurmOptions(1, logs=tmp_path / "a b"), retry_failed=False))
