"""Kinetics-710: its class numbers against everything published, and the merge of three training lists."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest

from data_prep.clip import Refusal
from data_prep.sources.k710 import KineticsSet, list_k710
from tests.support.paths import SHARED
from umt_ds.classes import ClassList, classes, k710_number, k710_numbers
from umt_ds.errors import ConfigError, DataError

ANNOTATIONS = SHARED / "data" / "annotations"
K710, KINETICS = ANNOTATIONS / "k710", ANNOTATIONS / "kinetics"
needs_annotations = pytest.mark.skipif(not K710.is_dir(), reason=f"{K710} is not there")

# K710 numbers to which VideoMAE V2's list of names gives the names of other classes (umt_ds/classes/README.md)
RENAMED = {222, 271, 348, 626, 629, 662, 708}


def names_in(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


# --- classes


@needs_annotations
@pytest.mark.parametrize("size", [400, 600, 700])
def test_the_maps_by_name_are_the_published_ones(size: Literal[400, 600, 700]) -> None:
    published = json.loads((K710 / f"videomaev2_label_710to{size}.json").read_text())
    official = names_in(KINETICS / f"label_map_k{size}.txt")
    lists: dict[int, ClassList] = {400: "k400", 600: "k600", 700: "k700"}
    assert sorted(classes(lists[size])) == sorted(official)
    if size == 400:
        assert k710_numbers(official) == published  # in alphabetical order
        assert k710_numbers(classes("k400")) == list(range(400))  # UMT: the first 400 rows of the head
    else:
        assert k710_numbers(classes(lists[size])) == published
        assert json.loads((K710 / f"internvideo2_label_mixto{size}.json").read_text()) == published


@needs_annotations
def test_every_row_of_the_published_k400_list_has_our_number() -> None:
    with (KINETICS / "activitynet_kinetics-400_val.csv").open(newline="") as file:
        labels = {row["youtube_id"]: row["label"] for row in csv.DictReader(file)}
    rows = [row.rsplit(",", 1) for row in names_in(ANNOTATIONS / "lists_path_label" / "k400_val.csv")]
    ours = [k710_number(labels[file.removesuffix(".mp4")]) for file, _ in rows]
    assert len(rows) == 19787
    assert ours == [int(number) for _, number in rows]
    assert k710_number("abseiling") == 341


@needs_annotations
def test_both_published_name_lists_are_understood() -> None:
    """They differ in a class: one has `chopping vegetables`, the other `throwing ball` in two spellings instead."""
    mmaction2, videomae = (names_in(K710 / f"{source}_label_map_k710.txt") for source in ("mmaction2", "videomaev2"))
    assert set(mmaction2) - set(videomae) == {"chopping vegetables"}
    assert sorted(k710_numbers(mmaction2)) == list(range(710))  # every class once, in its own order
    ours = k710_numbers(videomae)
    assert {number for number, own in enumerate(ours) if own != number} == RENAMED - {348}
    assert ours[348] == ours[629] == k710_number("throwing ball") == 348


@needs_annotations
def test_the_merged_pairs_are_one_class_each() -> None:
    for old, new in json.loads((K710 / "videomaev2_k710_identical_label_merge.json").read_text()).items():
        assert k710_number(old) == k710_number(new), old


def test_a_class_of_another_data_set_is_refused() -> None:
    with pytest.raises(DataError, match=r"not in the class list of 710[\s\S]*nearest: 'abseiling'"):
        k710_number("abseilin")


# --- the merge

ID = "abcdefghij{}".format
HEADER = "label,youtube_id,time_start,time_end,split\n"


def kinetics(tmp_path: Path, name: str, *rows: str, files: tuple[str, ...] = (), split: str = "train") -> KineticsSet:
    """A set of one csv, `label,last letter of the id,start,end`, with the cut clips of its rows, or with `files`."""
    fields = [row.split(",") for row in rows]
    path = tmp_path / f"{name}.csv"
    path.write_text(HEADER + "".join(f"{label},{ID(i)},{s},{e},{split}\n" for label, i, s, e in fields))
    videos = tmp_path / "videos" / name
    videos.mkdir(parents=True)
    for file in files or [f"{ID(i)}_{int(s):06d}_{int(e):06d}.mp4" for _, i, s, e in fields]:
        (videos / file).touch()
    return KineticsSet(name, path, videos)


def test_each_video_comes_once_with_the_class_of_the_first_set(tmp_path: Path) -> None:
    sets = [
        kinetics(tmp_path, "k400", "hugging,1,0,10", "abseiling,2,5,15"),
        kinetics(tmp_path, "k600", "hugging (not baby),1,2,12", "picking fruit,3,0,10"),
        kinetics(tmp_path, "k700", "waking up,2,50,60", "picking apples,3,0,10", "testifying,4,1,11"),
    ]
    listing, _ = list_k710(sets)
    assert listing.root == tmp_path / "videos"
    assert [(clip.key, clip.source, clip.label, clip.extra["sets"]) for clip in listing.clips] == [
        ("abcdefghij1_000000_000010", "k400/abcdefghij1_000000_000010.mp4", 222, "k400+k600"),
        ("abcdefghij2_000005_000015", "k400/abcdefghij2_000005_000015.mp4", 341, "k400+k700"),
        ("abcdefghij3_000000_000010", "k600/abcdefghij3_000000_000010.mp4", 35, "k600+k700"),
        ("abcdefghij4_000001_000011", "k700/abcdefghij4_000001_000011.mp4", 384, "k700"),
    ]
    assert [clip.label_name for clip in listing.clips][2] == listing.labels[35] == "picking apples"
    assert listing.left_out == (
        Refusal("k600/abcdefghij1_000002_000012", "repeats line 2 of k400: same id, overlaps 2-10 s"),
        Refusal(
            "k700/abcdefghij2_000050_000060",
            "repeats line 3 of k400: same id, other part (50-60 and 5-15 s), as 'waking up' and not 'abseiling'",
        ),
        Refusal("k700/abcdefghij3_000000_000010", "repeats line 3 of k600: same id, overlaps 0-10 s"),
    )
    assert "k700: 3 rows: 1 taken, 0 leaked, 2 repeated, 0 missing" in listing.notes


def test_a_video_of_any_validation_list_is_left_out_whole(tmp_path: Path) -> None:
    sets = [
        kinetics(tmp_path, "k400", "abseiling,1,0,10", "abseiling,2,0,10"),
        kinetics(tmp_path, "k700", "abseiling,1,60,70", "abseiling,3,12,22", "abseiling,4,0,10"),
    ]
    val = kinetics(tmp_path, "k700_val", "testifying,1,65,75", "testifying,3,90,99").csv
    test = kinetics(tmp_path, "k600_test", "testifying,1,0,10").csv
    listing, report = list_k710(sets, against=[val, test])
    assert [clip.extra["youtube_id"] for clip in listing.clips] == [ID(2), ID(4)]
    assert [(refusal.source, refusal.reason) for refusal in listing.left_out] == [
        (
            "k400/abcdefghij1_000000_000010",
            "in k700_val.csv: same id, other part (0-10 and 65-75 s); in k600_test.csv: same id, overlaps 0-10 s",
        ),
        (
            "k700/abcdefghij1_000060_000070",
            "in k700_val.csv: same id, overlaps 65-70 s; in k600_test.csv: same id, other part (60-70 and 0-10 s)",
        ),
        ("k700/abcdefghij3_000012_000022", "in k700_val.csv: same id, other part (12-22 and 90-99 s)"),
    ]
    assert (len(report.keys()), len(report.keys("time"))) == (3, 2)
    assert report.table().splitlines()[0] == "k400+k700: 5 clips"
    assert listing.about["against"] == ["k700_val.csv", "k600_test.csv"]


def test_the_next_set_stands_in_for_a_missing_file(tmp_path: Path) -> None:
    """With its own span and class: they belong together."""
    sets = [
        kinetics(tmp_path, "k400", "hugging,1,0,10", "hugging,2,0,10", "hugging,3,0,10", files=(f"{ID(3)}.mp4",)),
        kinetics(tmp_path, "k600", "hugging baby,1,7,17", "zumba,5,0,10", files=(f"{ID(1)}_000007_000017.mp4",)),
    ]
    listing, _ = list_k710(sets)
    assert [(clip.key, clip.label, clip.span_s, clip.extra["label_set"]) for clip in listing.clips] == [
        ("abcdefghij1_000007_000017", 662, None, "k600"),
        ("abcdefghij3_000000_000010", 222, (0, 10), "k400"),
    ]
    assert Counter(refusal.reason for refusal in listing.left_out) == {
        "repeats line 2 of k600: same id, overlaps 7-10 s, as 'hugging' and not 'hugging baby'": 1,
        "missing: no file for line 3 of k400": 1,
        "missing: no file for line 3 of k600": 1,
    }


def test_every_row_is_a_clip_or_left_out(tmp_path: Path) -> None:
    sets = [
        kinetics(tmp_path, "k400", "zumba,1,0,10", "zumba,1,5,15", "zumba,2,0,10", "zumba,?,0,10"),
        kinetics(tmp_path, "k700", "zumba,1,0,10", "zumba,3,0,10"),
    ]
    listing, _ = list_k710(sets, against=[kinetics(tmp_path, "val", "zumba,2,3,13").csv])
    assert len(listing.clips) + len(listing.left_out) == 6
    assert (
        Refusal("k400.csv line 5", "'abcdefghij?' is no YouTube id (11 letters, digits, - and _)") in listing.left_out
    )


def test_sets_can_share_a_folder(tmp_path: Path) -> None:
    one = kinetics(tmp_path, "k400", "zumba,1,0,10", "zumba,2,0,10")
    other = kinetics(tmp_path, "k700", "zumba,2,0,10")
    listing, _ = list_k710([one, KineticsSet("k700", other.csv, one.videos)])
    assert listing.root == one.videos
    assert [clip.source for clip in listing.clips] == ["abcdefghij1_000000_000010.mp4", "abcdefghij2_000000_000010.mp4"]


def test_a_mistaken_list_or_folder_is_refused(tmp_path: Path) -> None:
    k400, k700 = kinetics(tmp_path, "k400", "zumba,1,0,10"), kinetics(tmp_path, "k700", "zumba,2,0,10")
    with pytest.raises(ConfigError, match="compared with itself"):
        list_k710([k400, k700], against=[k400.csv])
    with pytest.raises(ConfigError, match="two sets are called 'k400'"):
        list_k710([k400, KineticsSet("k400", k700.csv, k700.videos)])
    with pytest.raises(DataError, match=r"none of the 1 rows of .*k700\.csv has a file below .*k400"):
        list_k710([k400, KineticsSet("k700", k700.csv, k400.videos)])


def test_a_class_that_k710_lacks_is_refused_with_its_line(tmp_path: Path) -> None:
    sets = [kinetics(tmp_path, "k400", "abseiling,1,0,10", "abseilin,2,0,10")]
    with pytest.raises(DataError, match=r"k400\.csv line 3: label 'abseilin' is not in the class list"):
        list_k710(sets)


@needs_annotations
def test_the_official_validation_lists_merge_to_the_published_size(tmp_path: Path) -> None:
    """VideoMAE V2 states 66,803 validation videos for K710, of those it had: here 67,003, each id once."""
    sets = []
    for size in (400, 600, 700):
        path, videos = KINETICS / f"kinetics{size}_validate.csv", tmp_path / f"k{size}"
        videos.mkdir()
        (videos / f"{names_in(path)[-1].split(',')[1]}.mp4").touch()
        sets.append(KineticsSet(f"k{size}", path, videos))
    listing, _ = list_k710(sets)
    assert len(listing.clips) == 3
    assert len(listing.clips) + len(listing.left_out) == 18009 + 28267 + 33909
    names = [refusal.source.partition("/")[2] for refusal in listing.left_out] + [clip.key for clip in listing.clips]
    assert len({name[:11] for name in names}) == 67003
