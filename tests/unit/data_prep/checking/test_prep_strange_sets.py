"""Sets that are legal and odd: what stats, filter, split, merge, show and sheet say of them is true, and printable."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_prep.checking.samples import samples_of
from data_prep.checking.sheet import write_sheet
from data_prep.checking.show import show
from data_prep.checking.stats import collect_stats, table, write_plots
from data_prep.checking.verify import verify
from data_prep.clip import Clip, Sample, StoreOptions
from data_prep.decode import make_sample
from data_prep.leaks.report import find_leaks
from data_prep.sources.sets import Filter, list_sets, split
from tests.support.shards import frame, key_of_sample, picture, write_shards
from tests.support.videos import write_video
from umt_ds.data.shards.manifest import Manifest, load_manifest
from umt_ds.data.shards.sample_record import record_of
from umt_ds.errors import ConfigError, DataError

PNG = picture(frame(0, 0))
ESCAPE = "\x1b[2J\x9b31m"  # clears a terminal, colours it


def npy(array: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_records(folder: Path, *records: Any) -> Path:
    """A set of pictures with these records, one each: as JSON, or as bytes."""
    files = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in records]
    return write_shards(folder, [len(files)], members=lambda n: {"png": PNG, "json": files[n]})


def left_out(folder: Path, keep: Filter) -> dict[str, str]:
    return {refusal.key: refusal.reason for refusal in list_sets([folder], keep=keep, verb="filter").left_out}


def set_labels(folder: Path, labels: Sequence[str]) -> None:
    replace(load_manifest(folder), labels=tuple(labels)).save(folder)


# ---------------------------------------------------------------- filter


@pytest.mark.parametrize(
    ("keep", "record", "reason"),
    [
        (Filter(min_seconds=2), {}, "duration unknown"),
        (Filter(min_seconds=2), {"duration_s": 0}, "duration unknown"),
        (Filter(min_seconds=2), {"duration_s": None}, "duration unknown"),
        (Filter(min_seconds=2), {"duration_s": "soon"}, "duration unknown"),
        (Filter(min_seconds=2), {"duration_s": math.inf}, "duration unknown"),
        (Filter(min_seconds=2), {"duration_s": True}, "duration unknown"),
        (Filter(min_seconds=2), {"duration_s": "1.5"}, "shorter than 2 s"),
        (Filter(max_seconds=2), {}, "duration unknown"),
        (Filter(max_seconds=2), {"duration_s": 3}, "longer than 2 s"),
        (Filter(min_side=64), {}, "size of the source unknown"),
        (Filter(min_side=64), {"source_width": 640, "source_height": None}, "size of the source unknown"),
        (Filter(min_side=64), {"source_width": 640, "source_height": "48"}, "short side below 64 pixels"),
        (Filter(captioned=True), {"caption": " "}, "no caption"),
        (Filter(captioned=True), {"caption": ["", None]}, "caption is of type list, neither text nor a list of texts"),
        (Filter(captioned=True), {"caption": 5}, "caption is of type int, neither text nor a list of texts"),
        (Filter(labelled=True), {"label": None}, "no label"),
        (Filter(labelled=True), {"label": -1}, "no label"),
        (Filter(labelled=True), b"{", "damaged: json, txt or cls cannot be read: Expecting property name"),
    ],
)
def test_a_sample_is_left_out_for_its_true_reason(tmp_path: Path, keep: Filter, record: Any, reason: str) -> None:
    good = {"duration_s": 2, "source_width": 64, "source_height": "64.0", "caption": "a", "label": 0}
    with_records(tmp_path, good, record)
    found = left_out(tmp_path, keep)
    assert list(found) == ["clip-0001"]
    assert found["clip-0001"].startswith(reason)


@pytest.mark.parametrize(
    "limits",
    [{"min_seconds": -1}, {"min_seconds": math.nan}, {"min_seconds": math.inf}, {"max_seconds": math.nan},
     {"max_seconds": 0}, {"max_seconds": -2}, {"min_side": -1}, {"min_seconds": 9, "max_seconds": 8}],
)  # fmt: skip
def test_limits_that_are_none_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"-seconds|-side|no clip has"):
        Filter(**limits)


def test_where_nothing_is_left_the_reasons_are_said(tmp_path: Path) -> None:
    with_records(tmp_path, {}, {"duration_s": 1}, {"duration_s": 1.5})
    with pytest.raises(DataError, match=r"is left: 2 shorter than 2 s, 1 duration unknown"):
        list_sets([tmp_path], keep=Filter(min_seconds=2), verb="filter")


# ---------------------------------------------------------------- split, merge


def test_clips_of_one_address_stay_on_one_side(tmp_path: Path) -> None:
    """video2dataset names a clip's video by its url alone."""
    with_records(tmp_path, *({"url": f"https://x/{n // 4}"} for n in range(32)))
    train, val = split(list_sets([tmp_path], verb="split"), share=0.5, seed=0)
    videos = [{int(clip.key[-4:]) // 4 for clip in side.clips} for side in (train, val)]
    assert not videos[0] & videos[1]
    assert not train.notes


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([{}], "all 1 samples that can be read are of one video"),
        ([{"url": "a"}] * 9, "all 9 samples that can be read are of one video"),
        ([b"{"] * 3, "no sample can be read, 3 are damaged: json, txt or cls"),
        ([b"{", {}], "all 1 samples that can be read are of one video"),
        ([{}, {}], "a share of 1e-06 leaves one side without a sample"),
    ],
)
def test_split_says_why_a_side_would_be_empty(tmp_path: Path, records: list[Any], said: str) -> None:
    with_records(tmp_path, *records)
    with pytest.raises(DataError) as caught:
        split(list_sets([tmp_path], verb="split"), share=1e-6, seed=0)
    assert said in caught.value.what


def test_split_says_what_names_no_video_and_leaves_out_what_cannot_be_read(tmp_path: Path) -> None:
    with_records(tmp_path, *[{}] * 9, b"{", {"source": "\ud83d"})
    train, val = split(list_sets([tmp_path], verb="split"), share=0.5, seed=0)
    assert len(train.clips) + len(val.clips) == 10
    assert train.notes == (
        "9 samples do not say of which video they are (youtube_id, source, url): each counts as one",
    )
    assert [(refusal.key, refusal.reason[:9]) for refusal in train.left_out] == [("clip-0009", "damaged: ")]
    assert not val.left_out


def test_a_merged_set_keeps_the_labels_of_its_cls(tmp_path: Path) -> None:
    write_shards(tmp_path / "a", [2], members=lambda n: {"000.png": PNG, "cls": str(n).encode(), "txt": b"one"})
    write_shards(tmp_path / "b", [2], members=lambda n: {"000.PNG": PNG, "CLS": str(n).encode()}, first=2)
    listing = list_sets([tmp_path / "a", tmp_path / "b"], verb="merge").first_in_order()
    copies = [make_sample(clip, root=listing.root, media="sample", store=StoreOptions()) for clip in listing.clips]
    records = [record_of(copy.members, copy.members.__getitem__) for copy in copies if isinstance(copy, Sample)]
    assert sorted(record["label"] for record in records) == [0, 1, 2, 3]
    assert sum("caption" in record for record in records) == 2


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ("ab", "ba", r"the same 2 classes in another order: class 0 is 'a' in the first, 'b' in the second"),
        ("abc", "axc", r"3 classes, .* 3, and they are not the same: class 1 is 'b' in the first, 'x' in the second"),
        ("ab", "abc", r"2 classes, .* 3, and they are not the same"),
    ],
)
def test_sets_of_other_classes_are_not_merged_and_what_differs_is_said(
    tmp_path: Path, ours: str, theirs: str, said: str
) -> None:
    for name, labels in (("a", ours), ("b", theirs)):
        write_shards(tmp_path / name, [1], members=lambda _: {"png": PNG})
        set_labels(tmp_path / name, labels)
    with pytest.raises(ConfigError, match=said):
        list_sets([tmp_path / "a", tmp_path / "b"], verb="merge")


def test_minus_one_is_no_label_for_verify_too(tmp_path: Path) -> None:
    set_labels(with_records(tmp_path, {"label": 0}, {"label": -1}, {"label": None}), ["a"])
    assert not verify(tmp_path, every=1).faults


# ---------------------------------------------------------------- stats


def made(video: Path, store: StoreOptions, **clip: Any) -> dict[str, bytes]:
    sample = make_sample(Clip(key_of_sample(0), video.name, **clip), root=video.parent, media="video", store=store)
    return dict(sample.members)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("store", "clip", "frames"),
    [
        (StoreOptions(store="mp4", short_side=32), {}, 30),
        (StoreOptions(store="mp4", short_side=32, fps=5), {}, 15),
        (StoreOptions(store="mp4", short_side=32), {"span_s": (0.5, 1.0)}, 5),
        (StoreOptions(store="npy", frames=7, short_side=32), {}, 7),
        (StoreOptions(store="frames", frames=7, short_side=32), {}, 7),
    ],
)
def test_frames_stored_are_the_frames_that_are_there(
    tmp_path: Path, store: StoreOptions, clip: dict[str, Any], frames: int
) -> None:
    members = made(write_video(tmp_path / "v.mp4", frames=30), store, **clip)
    changed = {**json.loads(members["json"]), "key": key_of_sample(1), "source_frames": [0]}
    both = members, {**members, "json": json.dumps(changed).encode()}
    assert (
        collect_stats(write_shards(tmp_path / "set", [1], members=lambda n: both[n]))["frames_stored"]["max"] == frames
    )
    assert verify(write_shards(tmp_path / "both", [2], members=lambda n: both[n]), every=1).faults == [
        ("frames differ from the json", f"tiny-000000.tar clip-0001: {frames}, not 1"),
    ]


def test_frames_of_others_are_counted_where_they_can_be(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", frames=5).read_bytes()
    array = npy(np.zeros((5, 4, 4, 3), np.uint8))
    out = write_shards(
        tmp_path / "a", [4], members=lambda n: [{"mp4": video}, {"npy": array}, {"jpg": PNG}, {"npy": b"x"}][n]
    )
    stats = collect_stats(out)
    assert (stats["frames_stored"]["count"], stats["frames_stored"]["max"], stats["frames_stored"]["min"]) == (2, 5, 1)
    assert "frames_stored           1.00" in table(stats)
    assert table(stats).splitlines()[4].split()[-1] == "2"  # known of two


def test_what_training_cannot_use_is_counted_and_costs_no_statistics(tmp_path: Path) -> None:
    with_records(
        tmp_path,
        b"{",
        {"caption": 5, "label": 1},
        {"caption": ["one", 2]},
        {"caption": "\ud83d", "label": "cat", "label_name": None},
        {"caption": ["one", "two words"], "label": 1, "label_name": "dog", "duration_s": "2", "width": "wide"},
    )
    stats = collect_stats(tmp_path)
    assert stats["unusable"] == {
        "caption is no text": 3,
        "json, txt or cls cannot be read": 1,
        "label is no whole number": 1,
    }
    assert (stats["with_caption"], stats["captions"]["max"]) == (1, 2)
    assert (stats["label"], stats["with_label"]) == ({"1": 1, "cat": 1, "dog": 1}, 3)
    assert (stats["duration_s"]["count"], stats["hours"], stats["stored_size"]) == (1, 0.001, {})
    assert "0.00 hours of video in the 1 that say it" in table(stats)


def test_hours_nobody_states_are_unknown_and_not_none(tmp_path: Path) -> None:
    stats = collect_stats(with_records(tmp_path, {}))
    assert stats["hours"] is None
    assert "hours" not in table(stats)
    write_plots(stats, tmp_path / "plot.png")


def test_more_labels_than_are_told_apart_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.checking.stats._MOST_KINDS", 2)
    write_shards(tmp_path, [1] * 5, members=lambda n: {"png": PNG, "cls": str(n).encode()})
    stats = collect_stats(tmp_path)
    assert "label (2)           0 1, 1 1, and 3 samples with still others" in table(stats)


def test_labels_that_begin_alike_or_look_like_formulas_are_drawn(tmp_path: Path) -> None:
    names = ["a" * 40, "a" * 40 + "b", r"$\frac$", "x$", ESCAPE, "two\nlines", ""]
    stats = collect_stats(with_records(tmp_path, *({"label": n, "label_name": name} for n, name in enumerate(names))))
    assert len(stats["label"]) == len(names)
    write_plots(stats, tmp_path / "plot.png")


# ---------------------------------------------------------------- what a terminal and a picture show


def test_nothing_of_a_stranger_reaches_the_terminal_but_what_prints(tmp_path: Path) -> None:
    record = {"caption": f"a {ESCAPE}\u202e\ud83d", "label": 1, "label_name": ESCAPE, "codec": ESCAPE * 100, ESCAPE: 1}
    with_records(tmp_path, record)
    stats = collect_stats(tmp_path)
    for text in (show(tmp_path, "clip-0000"), table(stats), json.dumps(stats, ensure_ascii=False)):
        assert all(one.isprintable() or one == "\n" for one in text)
        text.encode()
        assert len(text) < 6000
    assert r'"caption": "a \u001b[2J\x9b31m' in show(tmp_path, "clip-0000")


@pytest.mark.parametrize(
    "record",
    [
        b"{",
        {"caption": 5, "label": None, "duration_s": "long"},
        {"caption": ["\ud83d"], "label": [1], "label_name": {"a": 1}, "duration_s": -1, "times_s": ["now"]},
        {"caption": ESCAPE + "\n" + "word " * 100_000, "label": "x" * 9999, "duration_s": True, "times_s": [None]},
        {"caption": "漢字 و 😀", "label_name": "no label", "times_s": [math.nan]},
        {"caption": "a", "duration_s": 10**400, "label": 10**400, "times_s": [10**400]},
    ],
)
def test_odd_records_are_shown_and_drawn(tmp_path: Path, record: Any) -> None:
    with_records(tmp_path, record)
    assert "key     clip-0000" in show(tmp_path, "clip-0000", tmp_path / "one.png")
    assert write_sheet(tmp_path, tmp_path / "sheet.png") == 1
    assert Image.open(tmp_path / "sheet.png").size == (496, 188)


def test_the_sheet_says_of_a_sample_that_it_cannot_be_decoded(tmp_path: Path) -> None:
    write_shards(tmp_path, [2], members=lambda n: {"000.jpg": b"junk" if n else PNG})
    assert write_sheet(tmp_path, tmp_path / "sheet.png", samples=2) == 2
    bad = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))[128:, 496:].astype(int)
    assert ((bad[..., 0] - bad[..., 1]) > 60).any(), "in red, below where its frames would be"


@pytest.mark.parametrize("key", ["", "\udcff", ESCAPE, "x" * 100_000, "../..", "clip-0000\n"])
def test_keys_that_are_none_are_told_with_those_alike(tmp_path: Path, key: str) -> None:
    with_records(tmp_path, {})
    with pytest.raises(DataError, match="has no sample") as caught:
        show(tmp_path, key)
    assert len(caught.value.what) < 300 + len(str(tmp_path))
    assert caught.value.what.isprintable()


def test_an_array_that_claims_terabytes_costs_nothing(tmp_path: Path) -> None:
    claim = npy(np.zeros((1, 4, 4, 3), np.uint8)).replace(b"(1, 4, 4, 3), }" + b" " * 9, b"(9999999999, 4, 4, 3), }")
    sample = next(samples_of(write_shards(tmp_path, [1], members=lambda _: {"npy": claim}) / "tiny-000000.tar"))
    with pytest.raises(DataError, match=r"says \(9999999999, 4, 4, 3\) but holds 48 bytes"):
        sample.frames(lambda count: [0])


def test_an_empty_set_is_told_as_one(tmp_path: Path) -> None:
    """All of its clips were refused."""
    empty, one = tmp_path / "empty", with_records(tmp_path / "one", {})
    empty.mkdir()
    Manifest(name="empty", media="frames", shards=()).save(empty)
    stats = collect_stats(empty)
    assert table(stats).startswith("0 samples in 0 shards, 0.0 MB\n")
    write_plots(stats, tmp_path / "plot.png")
    assert verify(empty).kinds == {}
    with pytest.raises(DataError, match="has no sample"):
        show(empty, "x")
    with pytest.raises(DataError, match="holds no sample"):
        write_sheet(empty, tmp_path / "sheet.png")
    with pytest.raises(DataError, match="no sample there"):
        list_sets([empty], verb="split")
    assert len(list_sets([empty, one], verb="merge").clips) == 1
    near = {"frames": 2, "distance": 10, "share": 0.5}
    for train, against in ((empty, one), (one, empty)):
        assert "near duplicates by their frames: none" in find_leaks(train, [against], near=near, workers=1).table()
