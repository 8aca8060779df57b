"""More clips for a set: shards of their own behind the finished ones, which stay, as do tables over the set."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.checking.verify import verify
from data_prep.clip import Clip, Listing, Outcome, Refusal, RunOptions, Sample, StoreOptions
from data_prep.making import prepare as module
from data_prep.making.prepare import build_shards, close_set, prepare
from data_prep.making.selection import write_selection
from data_prep.sources.set_items import list_items
from data_prep.sources.sets import list_sets
from data_prep.state.plan import load_plan, open_plan
from tests.support.files import hashes_in
from tests.support.shards import frame, picture
from tests.support.stopping import Killed, stopped_at
from tests.support.umt_data import umt_data
from tests.support.videos import write_videos
from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.shards.manifest import Manifest, load_manifest
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.storage import as_path
from umt_ds.errors import ConfigError, DataError

STORE = StoreOptions(per_shard=3, store="frames")
FIRST, MORE = range(7), range(12)


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clips are made in this process, in order; of what follows the shards, only the manifest."""

    def map_ordered(work: Callable[[Clip], Outcome], clips: Iterator[Clip], **_: Any) -> Iterator[Outcome]:
        yield from map(work, clips)

    monkeypatch.setattr(module, "map_ordered", map_ordered)
    monkeypatch.setattr(module, "write_stats", lambda *_, **__: None)
    monkeypatch.setattr(os, "fsync", lambda _: None)


here = pytest.mark.usefixtures("no_processes")


def work(clip: Clip, **_: Any) -> Outcome:
    if "bad" in clip.key:
        return Refusal(clip.source, "refused")
    return Sample(clip.key, {"json": b"{}", "000.png": picture(frame(int(clip.key[-2:]), 0))})


def listing(numbers: Iterator[int] | range, *, root: Path, **other: Any) -> Listing:
    clips = tuple(Clip(f"v{number:02d}", f"v{number:02d}.mp4") for number in numbers)
    return replace(Listing(root, clips).first_in_order(), **other)


def make(out: Path, numbers: Iterator[int] | range, **other: Any) -> Manifest:
    store = other.pop("store", STORE)
    root = out.parent if isinstance(out, os.PathLike) else Path("/videos")
    prepare(listing(numbers, root=root, **other), out, name="set", store=store, run=RunOptions(workers=1), work=work)
    return load_manifest(out)


def keys(out: Path) -> list[str]:
    source = ShardSource(out)
    return [source.key(ref) for ref in source.refs()]


@here
def test_more_clips_are_shards_behind_the_finished_ones_which_stay(tmp_path: Path) -> None:
    out = tmp_path / "set"
    before = make(out, FIRST)
    files = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.glob("set-*")}
    records = {path: path.stat().st_mtime_ns for path in (out / ".umt-data" / "done").iterdir()}
    first = keys(out)
    after = make(out, MORE)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files} == files
    assert {path: path.stat().st_mtime_ns for path in records} == records
    assert after.shards[:3] == before.shards
    assert [(shard.file, shard.samples) for shard in after.shards[3:]] == [("set-000003.tar", 3), ("set-000004.tar", 2)]
    assert keys(out)[:7] == first
    assert sorted(keys(out)) == [f"v{number:02d}" for number in MORE]
    assert after.fingerprint != before.fingerprint
    assert verify(out, every=1).faults == []


@here
def test_dealt_anew_a_set_that_grew_is_the_one_that_was_made_at_once(tmp_path: Path) -> None:
    make(tmp_path / "set", FIRST)
    make(tmp_path / "set", MORE)
    make(tmp_path / "once", MORE)
    entries = []
    for name in ("set", "once"):
        mixed = list_sets([tmp_path / name], verb="merge").first_in_order()
        prepare(mixed, tmp_path / name / "mixed", name="mixed", store=STORE, run=RunOptions(workers=1))
        entries.append(load_manifest(tmp_path / name / "mixed").shards)
    assert entries[0] == entries[1]
    assert load_manifest(tmp_path / "set").shards != load_manifest(tmp_path / "once").shards


@here
def test_the_same_clips_again_change_nothing_and_a_third_time_adds_again(tmp_path: Path) -> None:
    out = tmp_path / "set"
    make(out, FIRST)
    make(out, MORE)
    state = hashes_in(out) | hashes_in(out / ".umt-data")
    make(out, MORE)
    assert hashes_in(out) | hashes_in(out / ".umt-data") == state
    third = make(out, range(14))
    assert ([shard.samples for shard in third.shards], third.earlier) == ([3, 3, 1, 3, 2, 2], (3, 5))
    assert load_plan(out).batches == (7, 5, 2)


@here
def test_what_was_left_out_before_is_counted_again_and_may_have_arrived(tmp_path: Path) -> None:
    out = tmp_path / "set"
    missing = tuple(Refusal(f"v{number:02d}.mp4", "is missing") for number in (7, 8))
    make(out, FIRST, left_out=missing)
    plan = open_plan(out, name="set", listing=listing(range(8), root=tmp_path, left_out=missing[1:]), store=STORE)
    assert plan.growth is not None
    assert plan.growth.text() == "1 clip is new, 7 are there; entries left out before decoding: 2 → 1"
    make(out, range(8), left_out=missing[1:])
    assert (out / "bad.csv").read_text() == "file,key,reason\nv08.mp4,,is missing\n"


@here
@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"numbers": range(1, 12)}, "1 clip is planned in .* and not in the list any more, such as 'v00'"),
        ({"about": {"source": "other"}}, "begun with another source None → 'other'"),
        ({"labels": ("run", "jump")}, r"begun with another list of classes \(0 → 2 names\)"),
        ({"store": replace(STORE, short_side=99)}, "begun with another short_side 256 → 99"),
        ({"store": replace(STORE, views="all")}, "begun with another views None → 'all'"),
    ],
)
def test_what_takes_clips_away_or_changes_options_is_refused(tmp_path: Path, now: dict[str, Any], message: str) -> None:
    out = tmp_path / "set"
    make(out, FIRST)
    before = hashes_in(out) | hashes_in(out / ".umt-data")
    with pytest.raises(ConfigError, match=message):
        make(out, now.pop("numbers", MORE), **now)
    assert hashes_in(out) | hashes_in(out / ".umt-data") == before


@here
def test_another_caption_of_a_clip_that_is_there_is_refused_with_its_name(tmp_path: Path) -> None:
    out = tmp_path / "set"
    make(out, FIRST)
    changed = listing(MORE, root=tmp_path)
    clips = tuple(replace(clip, captions=("a cat",)) if clip.key == "v03" else clip for clip in changed.clips)
    with pytest.raises(ConfigError, match=r"1 clip is planned .*; of 'v03' captions \(\) → \('a cat',\)") as caught:
        open_plan(out, name="set", listing=replace(changed, clips=clips), store=STORE)
    assert "umt-data items" in str(caught.value.hint)


@here
def test_after_a_kill_at_any_file_operation_the_same_command_ends_as_if_there_had_been_none(tmp_path: Path) -> None:
    begun, whole = tmp_path / "begun", tmp_path / "whole"
    old = make(begun, FIRST)
    shutil.copytree(begun, whole)
    make(whole, MORE)
    for step in range(100):
        out = tmp_path / str(step)
        shutil.copytree(begun, out)
        with stopped_at(step, Killed()) as done:
            try:
                make(out, MORE)
                break
            except Killed:
                pass
        if not any("manifest.json" in one or "index.arrow" in one for one in done):
            assert load_manifest(out) == old, done
            assert len(keys(out)) == 7, done
        make(out, MORE)
        assert hashes_in(out) == hashes_in(whole), done
    assert step > 20
    moved = [Path(one.split()[1]).name.partition(".")[0] for one in done if one.startswith("os.replace")]
    last = moved.index("manifest")
    assert moved[last - 2 : last] == ["statistics", "index"], "a reader finds files that fit each other"


@here
def test_in_a_store_too(tmp_path: Path) -> None:
    make(tmp_path / "set", FIRST)
    make(tmp_path / "set", MORE)
    out = as_path(f"memory://{tmp_path.name}/set")
    make(out, FIRST)
    make(out, MORE)
    assert hashes_in(out) == hashes_in(tmp_path / "set")


@here
def test_parts_make_what_is_new_by_the_plan_in_the_folder(tmp_path: Path) -> None:
    out, whole = tmp_path / "set", tmp_path / "whole"
    for folder in (out, whole):
        make(folder, FIRST)
    make(whole, MORE)
    open_plan(out, name="set", listing=listing(MORE, root=tmp_path), store=STORE)
    plan = load_plan(out)
    assert plan.pending() == [3, 4]
    assert len(load_manifest(out).shards) == 3  # readers see the set as it was
    for shard in (4, 3):
        build_shards(load_plan(out), [shard], run=RunOptions(workers=1), work=work)
        assert verify(out).faults == [
            (
                "clips unaccounted for",
                "12 clips, 7 samples, 0 rows in bad.csv; 5 of the clips were added last: is the command that adds them "
                "still to end?",
            )
        ]
    close_set(load_plan(out))
    assert hashes_in(out) == hashes_in(whole)


@here
def test_a_table_over_the_set_before_reads_what_it_read(tmp_path: Path) -> None:
    out, table = tmp_path / "set", tmp_path / "table"
    make(out, FIRST)
    whole = list_items([out], verb="merge")
    write_selection(replace(whole, stays=(np.array([n in (2, 3, 4, 5) for n in range(7)]),)), table, name="table")
    write_selection(whole, tmp_path / "whole", name="whole")
    before = [keys(folder) for folder in (table, tmp_path / "whole")]
    fingerprint = ShardSource(table).fingerprint
    make(out, MORE)
    make(out, range(14))
    assert [keys(folder) for folder in (table, tmp_path / "whole")] == before
    assert ShardSource(table).fingerprint == fingerprint
    shutil.rmtree(out)
    make(out, range(1, 12))
    with pytest.raises(DataError, match=r"has changed since .* and not by samples that were added"):
        ShardSource(table)


@here
def test_a_loader_knows_what_its_sets_were_before(tmp_path: Path) -> None:
    out = tmp_path / "set"
    before = [make(out, numbers).fingerprint for numbers in (FIRST, MORE)]
    make(out, range(14))
    loader = Loader(
        [SourceSpec("demo", out, FramePolicy("sparse", 1, 1))],
        LoaderPlan(seed=0, global_draws=1, image_side=16, micro=1),
    )
    assert loader.earlier == {
        "demo": dict(zip(before, [f"the set before {n} samples were added" for n in (7, 2)], strict=True))
    }


def test_the_commands_say_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = umt_data(monkeypatch, capsys)
    videos, out = write_videos(tmp_path / "videos", 4), tmp_path / "set"
    words = ("folder", videos, out, "--per-shard", "3", "--frames", "2", "--short-side", "16", "--workers", "1")
    assert run(*words).code == 0
    assert "are there" not in run(*words).err
    write_videos(tmp_path / "videos", 6)
    dry = run(*words, "--dry-run").out
    assert "2 clips are new, 4 are there\nwould make 1 shards" in dry
    assert run(*words, "--limit", "4").code == 2, "the first four of six are others"
    assert "set-000002.tar … of 2 clips" in dry
    assert json.loads((out / ".umt-data" / "plan.json").read_text())["clips"] == 4
    said = run(*words)
    assert (said.code, "2 clips are new, 4 are there\n" in said.err) == (0, True)
    assert "set: 6 samples + 0 refused = 6 in all" in said.out
    write_videos(tmp_path / "videos", 7)
    said = run(*words, "--plan-only")
    assert "1 clip is new, 6 are there\n" in said.err
    assert "7 clips in 4 shards, 1 to be made" in said.out
    assert (run("work", out, "--part", "0/1", "--workers", "1").code, run("finish", out).code) == (0, 0)
    assert load_manifest(out).num_samples == 7
