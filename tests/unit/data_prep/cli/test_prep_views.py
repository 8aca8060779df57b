"""`--views`: sets that store exactly the frames that evaluation shows, from the command line to `verify`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from data_prep.checking.verify import verify
from data_prep.cli.making import unused_options
from data_prep.clip import Clip, RunOptions, Sample, Store, StoreOptions
from data_prep.decode import make_sample
from data_prep.making.prepare import prepare
from data_prep.sources.folder import list_folder
from data_prep.state.plan import load_plan
from tests.support.shards import png_frames, write_shards
from tests.support.umt_data import Umt
from tests.support.videos import shown_number, write_numbered_video
from umt_ds.data.clips import read_clip
from umt_ds.data.order.views import Views, as_options, frames_of, views_of
from umt_ds.data.shards.manifest import MANIFEST, load_manifest
from umt_ds.data.shards.source import ShardSource
from umt_ds.errors import DataError

LENGTHS = {"a": 50, "b": 5, "c": 31}
VIEWS = "recognition:8x4 retrieval:12"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, length in LENGTHS.items():
        write_numbered_video(folder / f"{name}.mp4", range(length))
    return folder


@pytest.fixture(scope="module")
def made(videos: Path) -> Path:
    out = videos.parent / f"{videos.name}-set"
    store = StoreOptions(short_side=48, views=VIEWS)
    prepare(list_folder(videos).first_in_order(), out, name="set", store=store, run=RunOptions(workers=1))
    return out


def test_a_set_says_its_views_and_every_clip_shows_its_frames(made: Path) -> None:
    assert load_manifest(made).options["views"] == VIEWS
    assert load_plan(made).store.views == VIEWS
    source = ShardSource(made)
    for ref in source.refs():
        for views in (Views("recognition", 8, 4), Views("retrieval", 12)):
            rule = views.testing_rule
            clip = read_clip(source, ref, choose=rule, with_record=False)
            assert [shown_number(frame) for frame in clip.frames] == rule(LENGTHS[clip.key])


def test_a_set_of_other_frames_is_refused_with_its_name_and_the_option(made: Path) -> None:
    source = ShardSource(made)
    refs = {source.key(ref): ref for ref in source.refs()}
    with pytest.raises(DataError, match=f"{made} was not made for the frames of recognition:16x4: its sample a") as no:
        read_clip(source, refs["a"], choose=Views("recognition", 16, 4).testing_rule, with_record=False)
    assert "--views recognition:16x4" in (no.value.hint or "")


def test_sets_without_views_state_nothing_of_them(videos: Path, tmp_path: Path) -> None:
    listing = list_folder(videos).first_in_order()
    prepare(listing, tmp_path / "set", name="set", store=StoreOptions(4, 48), run=RunOptions(workers=1))
    for file in (MANIFEST, ".umt-data/plan.json", "stats.json"):
        assert "views" not in (tmp_path / "set" / file).read_text()
    (ref, *_) = (source := ShardSource(tmp_path / "set")).refs()
    assert "clip_frames" not in read_clip(source, ref, choose=lambda _: [0], with_record=True).record


def test_the_same_views_in_another_spelling_continue_a_set_and_others_are_refused(
    umt: Umt, videos: Path, made: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(made, tmp_path / "set"))
    command = ("folder", videos, out, "--name", "set", "--short-side", "48", "--workers", "1")
    assert umt(*command, "--views", "retrieval:12", "--views", "recognition:8x4").code == 0
    other = umt(*command, "--views", "recognition:8x4")
    assert (other.code, "views 'recognition:8x4 retrieval:12' → 'recognition:8x4'" in other.text) == (2, True)
    none = umt(*command)
    assert (none.code, "views 'recognition:8x4 retrieval:12' → None" in none.text) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--views", "recognition:8x"], "after the colon stand frames of a clip"),
        (["--views", "recognition:8x4", "--frames", "32"], "--views says which frames are stored, and --frames 32"),
        (["--views", "all", "--fps", "2"], "--views says which frames are stored, and --fps 2.0"),
    ],
)
def test_views_that_are_none_or_beside_another_choice_are_refused_before_anything_is_written(
    umt: Umt, videos: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    refused = umt("folder", videos, tmp_path / "set", *words)
    assert (refused.code, said in refused.text, "hint: " in refused.text) == (2, True, True)
    assert not (tmp_path / "set").exists()


def test_a_dry_run_says_how_many_frames_a_clip_will_be(umt: Umt, videos: Path, tmp_path: Path) -> None:
    dry = umt("folder", videos, tmp_path / "set", "--views", "recognition:8x4,16x4", "--dry-run")
    assert "the frames of recognition:8x4,16x4 (96 of a clip of 300 frames)" in dry.text
    whole = umt("folder", videos, tmp_path / "set", "--views", "ssv2:8x2", "--store", "mp4", "--dry-run")
    assert "whole clips, short side 256, H.264, each frame once" in whole.text


def test_views_count_for_nothing_where_nothing_is_chosen() -> None:
    store = StoreOptions(views="all")
    assert [unused_options(media, store) for media in ("sample", "image")] == [["--views all"]] * 2
    assert unused_options("video", store) == []


def test_verify_stats_and_show_know_the_views(umt: Umt, made: Path) -> None:
    assert verify(made, every=1).faults == []
    assert f"views: {VIEWS}" in umt("stats", made, "--workers", "1").text
    assert json.loads((made / "stats.json").read_text())["views"] == VIEWS
    stored = len(frames_of(VIEWS, 50))
    assert f"views   {VIEWS}: {stored} of the 50 frames of the clip" in umt("show", made, "a").text


def views_set(out: Path, views: str, files: Mapping[str, bytes]) -> Path:
    """A set of one sample whose manifest states these views."""
    write_shards(out, [1], members=lambda _: files)
    manifest = load_manifest(out)
    manifest.options["views"] = views
    manifest.save(out)
    return out


@pytest.mark.parametrize(("stored", "fault"), [("npy", True), ("mp4", False)])  # an mp4 has the frames of all views
def test_verify_holds_a_sample_against_the_views_of_its_set(
    videos: Path, tmp_path: Path, stored: Store, fault: bool
) -> None:
    store = StoreOptions(short_side=48, views="ssv2:8x2", store=stored)
    sample = make_sample(Clip("clip-0000", "a.mp4"), root=videos, media="video", store=store)
    assert isinstance(sample, Sample)
    found = verify(views_set(tmp_path, "ssv2:4x2", sample.members), every=1).faults
    assert [kind for kind, _ in found] == ["frames are not those of the views"] * fault


def test_verify_finds_a_sample_that_claims_more_frames_than_memory_holds(tmp_path: Path) -> None:
    claimed = {"source_frames": list(range(6)), "clip_frames": [0, 2**62]}
    out = views_set(tmp_path, "all", {**png_frames(0), "json": json.dumps(claimed).encode()})
    assert [kind for kind, _ in verify(out, every=1).faults] == ["frames are not those of the views"]


def test_copies_keep_the_views_and_sets_of_different_views_do_not_mix(
    umt: Umt, videos: Path, made: Path, tmp_path: Path
) -> None:
    one = ("--workers", "1", "--copy")
    assert umt("filter", made, tmp_path / "long", "--min-seconds", "0.5", *one).code == 0
    assert views_of(load_manifest(tmp_path / "long").options) == VIEWS
    assert verify(tmp_path / "long", every=1).faults == []
    listing = list_folder(videos).first_in_order(1)
    prepare(listing, tmp_path / "plain", name="p", store=StoreOptions(4, 48), run=RunOptions(workers=1))
    mixed = umt("merge", tmp_path / "both", made, tmp_path / "plain", *one)
    assert mixed.code == 2
    assert f"was made with {as_options(VIEWS)}, {tmp_path / 'plain'} without --views" in mixed.text
