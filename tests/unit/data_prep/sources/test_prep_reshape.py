"""Filter, split and merge: samples are copied byte for byte, and nothing is lost or leaks over."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.checking.samples import StoredSample, samples_of
from data_prep.clip import RunOptions, StoreOptions
from data_prep.leaks.exclusion import exclude, read_keys
from data_prep.making.prepare import prepare
from data_prep.sources.folder import list_folder
from data_prep.sources.sets import Filter, list_sets, split
from tests.support.shards import write_shards
from tests.support.videos import write_video
from umt_ds.data.shards.manifest import Manifest, load_manifest
from umt_ds.data.shards.records import read_members
from umt_ds.errors import ConfigError, DataError

STORE = StoreOptions(frames=2, short_side=16, per_shard=3)
ONE = RunOptions(workers=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 clips of 1.0 to 3.2 s; even ones have a caption, the two halves a label."""
    videos = tmp_path_factory.mktemp("videos")
    rows = ["file,caption,label"]
    for number in range(12):
        write_video(videos / f"v{number:02d}.mp4", frames=5 + number, fps=5)
        rows.append(f"v{number:02d}.mp4,{'a caption' if number % 2 == 0 else ''},{'low' if number < 6 else 'top'}")
    captions = videos / "captions.csv"
    captions.write_text("\n".join(rows) + "\n")
    out = tmp_path_factory.mktemp("made") / "set"
    listing = list_folder(videos, captions=captions).first_in_order()
    prepare(listing, out, name="set", store=STORE, run=ONE)
    return out


def copy(listing: object, out: Path, *, per_shard: int = 3) -> Manifest:
    prepare(listing.first_in_order(), out, name="set", store=replace(STORE, per_shard=per_shard), run=ONE)  # type: ignore[attr-defined]
    return load_manifest(out)


def samples(out: Path) -> list[StoredSample]:
    return [sample for shard in load_manifest(out).shards for sample in samples_of(out / shard.file)]


def contents(out: Path) -> dict[str, dict[str, bytes]]:
    return {sample.key: read_members(sample.tar, sample.members) for sample in samples(out)}


def test_split_and_merge_give_back_the_set_byte_for_byte(made: Path, tmp_path: Path) -> None:
    train, val = split(list_sets([made], verb="split"), share=0.3, seed=0)
    copy(train, tmp_path / "train")
    copy(val, tmp_path / "val")
    left, right = contents(tmp_path / "train"), contents(tmp_path / "val")
    assert not left.keys() & right.keys()
    assert 0 < len(right) < len(left)
    assert left | right == contents(made)
    merged = copy(list_sets([tmp_path / "train", tmp_path / "val"], verb="merge"), tmp_path / "merged")
    assert [shard.sha256 for shard in merged.shards] == [shard.sha256 for shard in load_manifest(made).shards]
    assert merged.labels == ("low", "top")


def test_clips_of_one_video_stay_on_one_side(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    write_video(videos / "a.mp4", frames=3)
    listing = list_folder(videos)
    clip = listing.clips[0]
    clips = [replace(clip, key=f"{clip.key}_{n}", extra={"youtube_id": f"id{n // 10}"}) for n in range(100)]
    prepare(replace(listing, clips=tuple(clips)).first_in_order(), tmp_path / "set", name="set", store=STORE, run=ONE)
    sides = split(list_sets([tmp_path / "set"], verb="split"), share=0.5, seed=0)
    train, val = ({int(clip.key.rpartition("_")[2]) // 10 for clip in side.clips} for side in sides)
    assert not train & val
    assert train | val == set(range(10))


@pytest.mark.parametrize(
    ("keep", "numbers"),
    [
        (Filter(min_seconds=2.0), range(5, 12)),
        (Filter(max_seconds=2.0), range(6)),
        (Filter(captioned=True), range(0, 12, 2)),
        (Filter(min_seconds=2.0, captioned=True), (6, 8, 10)),
    ],
)
def test_filter_keeps_what_it_says(made: Path, tmp_path: Path, keep: Filter, numbers: range) -> None:
    listing = list_sets([made], keep=keep, verb="filter")
    manifest = copy(listing, tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == [f"v{number:02d}" for number in numbers]
    assert manifest.num_samples + len(listing.left_out) == 12
    assert len((tmp_path / "out" / "bad.csv").read_text().splitlines()) == 1 + len(listing.left_out)


def test_an_exclusion_list_is_part_of_the_fingerprint(made: Path, tmp_path: Path) -> None:
    keys = tmp_path / "leaks.txt"
    keys.write_text("# found by hand\nv03\n\nv07\nnot-there\n")
    listing = exclude(list_sets([made], verb="filter"), [read_keys(keys)])
    manifest = copy(listing, tmp_path / "out")
    assert manifest.num_samples == 10
    assert not {"v03", "v07"} & contents(tmp_path / "out").keys()
    assert "set-000000.tar,v03,excluded by leaks.txt" in (tmp_path / "out" / "bad.csv").read_text()
    excluded = manifest.options["excluded"]
    assert excluded[0]["list"] == "leaks.txt"
    # the same shards, said to be made with another list, are another set
    other = replace(manifest, options={**manifest.options, "excluded": [{**excluded[0], "sha256": "0" * 64}]})
    assert other.fingerprint != manifest.fingerprint
    # a folder begun without the list is not continued with it
    with pytest.raises(ConfigError, match="begun with another"):
        copy(list_sets([made], verb="filter"), tmp_path / "out")


def test_a_list_of_all_keys_is_refused(made: Path, tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text("\n".join(contents(made)))
    with pytest.raises(DataError, match=r"all\.txt exclude all 12 clips"):
        exclude(list_sets([made], verb="filter"), [read_keys(tmp_path / "all.txt")])


def test_sets_that_do_not_go_together_are_not_merged(made: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    write_video(videos / "x.mp4", frames=2)
    listing = list_folder(videos).first_in_order()
    prepare(listing, tmp_path / "plain", name="plain", store=STORE, run=ONE)
    with pytest.raises(ConfigError, match=r"2 classes, .* 0, and they are not the same"):
        list_sets([made, tmp_path / "plain"], verb="merge")
    prepare(listing, tmp_path / "npy", name="npy", store=replace(STORE, store="npy"), run=ONE)
    with pytest.raises(ConfigError, match=r"holds frames, .* npy"):
        list_sets([tmp_path / "plain", tmp_path / "npy"], verb="merge")
    with pytest.raises(ConfigError, match="is named twice"):
        list_sets([made, tmp_path / "plain", made], verb="merge")


def test_sets_whose_other_labels_count_in_another_order_are_not_merged(tmp_path: Path) -> None:
    sets = [write_shards(tmp_path / name, (1,), first=number) for number, name in enumerate("ab")]
    for folder, motions in zip(sets, (["up", "down"], ["down", "up"]), strict=True):
        replace(load_manifest(folder), options={"classes": {"motion": motions}}).save(folder)
    said = r"the same 2 classes in another order: class 0 is 'up' in the first, 'down' in the second \(motion_label\)"
    with pytest.raises(ConfigError, match=said):
        list_sets(sets, verb="merge")


def test_samples_that_several_sets_have_are_told_with_their_sets(made: Path, tmp_path: Path) -> None:
    part = copy(list_sets([made], keep=Filter(min_seconds=3.0), verb="filter"), tmp_path / "part")
    both = list_sets([made, tmp_path / "part"], verb="merge")
    with pytest.raises(
        DataError, match=rf"{part.num_samples} keys .*; 'v\d\d' in .*/set-00.*tar and .*/set-00"
    ) as caught:
        both.first_in_order()
    assert "--exclude" in str(caught.value.hint)


def test_a_damaged_sample_is_refused_and_not_copied(made: Path, tmp_path: Path) -> None:
    first = samples(made)[0]
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in made.iterdir():
        if path.is_file():
            (copied / path.name).write_bytes(path.read_bytes())
    tar = copied / first.tar.name
    data = bytearray(tar.read_bytes())
    member = first.media_members[0]
    data[member.offset + 5] ^= 1
    tar.write_bytes(data)
    copy(list_sets([copied], verb="filter"), tmp_path / "out")
    assert first.key not in contents(tmp_path / "out")
    assert "does not match its checksum" in (tmp_path / "out" / "bad.csv").read_text()


def test_the_manifest_says_where_samples_come_from(made: Path, tmp_path: Path) -> None:
    copy(list_sets([made], keep=Filter(captioned=True), verb="filter"), tmp_path / "out")
    options = json.loads((tmp_path / "out" / "manifest.json").read_text())["options"]
    assert options["from"] == [{"name": "set", "fingerprint": load_manifest(made).fingerprint}]
    assert options["kept"] == {"captioned": True}
    assert options["made_with"]["frames"] == 2
