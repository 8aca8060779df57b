"""Leaks by YouTube id and time range, between official csv files and finished sets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.leaks.exclusion import read_keys
from data_prep.leaks.id_overlap import (
    Kind,
    Leak,
    Span,
    SpanList,
    check_leaks,
    compare,
    find_repeats,
    read_spans,
)
from data_prep.leaks.near_duplicates import Near, NearReport
from data_prep.leaks.report import LeakReport, find_leaks, write_found
from tests.support.paths import SHARED
from tests.support.shards import write_shards
from umt_ds.errors import ConfigError, DataError

KINETICS = SHARED / "data" / "annotations" / "kinetics"
needs_kinetics = pytest.mark.skipif(not KINETICS.is_dir(), reason=f"{KINETICS} is not there")


def span(video: str, start: float, end: float) -> Span:
    return Span(f"{video}/{start:g}", video, start, end)


@pytest.mark.parametrize(
    ("ours", "theirs", "kind", "detail"),
    [
        ((10, 20), (12, 22), "time", "overlaps 12-20 s"),
        ((10, 20), (14, 15), "time", "overlaps 14-15 s"),
        ((10, 20), (10, 20), "time", "overlaps 10-20 s"),
        ((10, 20), (20, 30), "id", "other part (10-20 and 20-30 s)"),  # they touch, and share no second
        ((50, 60.5), (1, 11), "id", "other part (50-60.5 and 1-11 s)"),
    ],
)
def test_two_clips_of_a_video_share_its_seconds_or_only_the_video(
    ours: tuple[float, float], theirs: tuple[float, float], kind: Kind, detail: str
) -> None:
    leak = Leak(span("v", *ours), span("v", *theirs), "val")
    assert (leak.kind, leak.detail) == (kind, detail)


def test_each_training_clip_counts_once_a_list_and_every_pair_is_reported(tmp_path: Path) -> None:
    train = SpanList("train", [span("b", 0, 10), span("a", 0, 10), span("a", 30, 40), span("only here", 0, 10)])
    val = SpanList("val", [span("a", 5, 15), span("a", 8, 18), span("only there", 0, 10)], skipped=3)
    test = SpanList("test", [span("b", 90, 99)])
    report = compare(train, [val, test])
    assert report.table().splitlines() == [
        "train: 4 clips",
        "against         clips  same video  same seconds",
        "val                 3           2             1",
        "test                1           1             0",
        "any of them         4           3             1",
        "1 videos have several clips in train; 0 of these overlap",
        "not compared: 3 entries of val without YouTube id and times",
    ]
    assert report.keys() == ["a/0", "a/30", "b/0"]
    assert report.keys("time") == ["a/0"]
    write_found(LeakReport(tmp_path, (), report), tmp_path / "leaks")
    assert (tmp_path / "leaks" / "leaks.csv").read_text().splitlines() == [
        "train_key,against_key,against,kind,detail",
        "a/0,a/5,val,time,a: 0-10 s and 5-15 s",
        "a/0,a/8,val,time,a: 0-10 s and 8-18 s",
        "a/30,a/5,val,id,a: 30-40 s and 5-15 s",
        "a/30,a/8,val,id,a: 30-40 s and 8-18 s",
        "b/0,b/90,test,id,b: 0-10 s and 90-99 s",
    ]
    assert read_keys(tmp_path / "leaks" / "exclude.txt").keys == set(report.keys())


LOOKED = NearReport((), train=1, against=1, blank=0, unread=())
ALIKE = replace(LOOKED, pairs=(Near("clip-0000", "clip-0001", "val", 8, 8, 0.0, False),))


@pytest.mark.parametrize(
    ("ours", "near", "kind", "lists", "said"),
    [
        ((0, 10), None, "id", {"exclude.txt": 1}, ["leaks.csv", "give exclude.txt (1 key) to --exclude"]),
        (None, None, "id", {"exclude.txt": 0}, ["nothing is to be left out: exclude.txt holds no key"]),
        (None, LOOKED, "id", {"exclude.txt": 0, "exclude_near.txt": 0},
         ["nothing is to be left out: exclude.txt and exclude_near.txt hold no key"]),
        (None, ALIKE, "id", {"exclude.txt": 0, "exclude_near.txt": 1},
         ["leaks.csv", "look at pairs.png, then give exclude_near.txt (1 key) to --exclude"]),
        ((0, 10), ALIKE, "id", {"exclude.txt": 1, "exclude_near.txt": 1},
         ["leaks.csv", "give exclude.txt (1 key) to --exclude", "exclude_near.txt (1 key) to --exclude, too"]),
        ((50, 60), None, "time", {"exclude.txt": 0},
         ["leaks.csv", "exclude.txt holds no key: videos are shared, and none of their seconds"]),
    ],
)  # fmt: skip
def test_leaks_points_to_the_lists_that_hold_keys(
    tmp_path: Path,
    ours: tuple[float, float] | None,
    near: NearReport | None,
    kind: Kind,
    lists: dict[str, int],
    said: list[str],
) -> None:
    sets = write_shards(tmp_path / "train", [1]), write_shards(tmp_path / "val", [1], first=1)
    report = compare(SpanList("train", [span("a", *ours)] if ours else []), [SpanList("val", [span("a", 5, 15)])])
    out = tmp_path / "leaks"
    out.mkdir()
    (out / "pairs.png").write_text("of an earlier run")
    sentences = write_found(LeakReport(sets[0], (sets[1],), report, near), out, kind=kind)
    text = [sentence.replace(f"{out}/", "").replace(str(out), "there") for sentence in sentences]
    assert len(text) == len(said)
    assert all(words in sentence for words, sentence in zip(said, text, strict=True))
    assert {path.name: len(read_keys(path).keys) for path in out.glob("*.txt")} == lists
    assert (out / "pairs.png").is_file() is (near is not LOOKED)


def test_what_cannot_be_compared_is_not_called_clean(tmp_path: Path) -> None:
    sets = write_shards(tmp_path / "train", [2]), write_shards(tmp_path / "val", [1], first=2)  # no YouTube ids
    with pytest.raises(DataError, match=r"none of the 2 clips of train says which seconds") as caught:
        find_leaks(sets[0], [sets[1]], near=None, workers=1)
    assert "--near" in str(caught.value.hint)
    report = compare(SpanList("train", []), [SpanList("val", [], skipped=1)])
    unread = replace(LOOKED, unread=("val: clip-0001: is no picture",))
    founds = [LeakReport(sets[0], (sets[1],), report, near) for near in (LOOKED, ALIKE, unread)]
    assert [found.is_clean for found in founds] == [True, False, False]


def test_a_list_of_an_earlier_comparison_is_not_passed_off_as_of_this_one(tmp_path: Path) -> None:
    (tmp_path / "exclude_near.txt").write_text("old\n")
    said = write_found(LeakReport(tmp_path, (), compare(SpanList("train", []), [])), tmp_path)
    assert said[-1] == f"{tmp_path}/exclude_near.txt is of an earlier comparison: this one did not look at frames"


def test_the_report_does_not_depend_on_the_order_of_the_rows() -> None:
    train, val = [span("a", 0, 10), span("a", 5, 15), span("b", 0, 10)], [span("b", 1, 2), span("a", 7, 9)]
    one = compare(SpanList("train", train), [SpanList("val", val)])
    other = compare(SpanList("train", train[::-1]), [SpanList("val", val[::-1])])
    assert (one.leaks, one.repeats) == (other.leaks, other.repeats)


def test_a_repeat_is_compared_with_the_earlier_clip_that_ends_last() -> None:
    long, short, late = span("a", 0, 100), span("a", 1, 2), span("a", 50, 60)
    repeats = find_repeats([late, short, long], "train")
    assert [(repeat.train, repeat.against, repeat.kind) for repeat in repeats] == [
        (short, long, "time"),
        (late, long, "time"),
    ]


@needs_kinetics
@pytest.mark.parametrize(
    ("train", "against", "videos", "seconds"),
    [(700, 400, 207, 200), (700, 600, 34, 29), (600, 400, 12901, 12898)],
)
def test_the_official_validation_lists_share_what_was_counted_independently(
    train: int, against: int, videos: int, seconds: int
) -> None:
    report = check_leaks(KINETICS / f"kinetics{train}_validate.csv", [KINETICS / f"kinetics{against}_validate.csv"])
    assert (len(report.keys()), len(report.keys("time"))) == (videos, seconds)
    assert report.repeats is not None
    assert len({repeat.train.youtube_id for repeat in report.repeats}) == {600: 5, 700: 53}[train]


def test_finished_sets_and_csv_files_are_compared_alike(tmp_path: Path) -> None:
    clip = {"youtube_id": "abcdefghijk", "time_start": 10, "time_end": 20}
    records = [
        clip,
        {**clip, "time_start": 40.5, "time_end": 50.5},
        {"caption": "no YouTube video"},
        {**clip, "youtube_id": 7},
        {**clip, "time_end": None},
        {**clip, "time_end": float("nan")},
        {**clip, "time_end": 10},  # no part of a video: it would overlap nothing
        {**clip, "time_start": 30},
        {**clip, "time_start": False},
        {**clip, "time_end": 10**400},
    ]
    members = [{"json": json.dumps(record).encode(), "000.png": b""} for record in records]
    folder = write_shards(tmp_path / "k400-train", (4, 6), members=lambda number: members[number])
    csv = tmp_path / "val.csv"
    csv.write_text("youtube_id,time_start,time_end\nabcdefghijk,15,25\nzzzzzzzzzzz,0,10\n#NAME?,0,10\n")
    report = check_leaks(folder, [csv])
    assert (report.train.name, len(report.train.spans), report.train.skipped) == ("k400-train", 2, 8)
    assert [(leak.train.key, leak.against.key, leak.list_name, leak.kind) for leak in report.leaks] == [
        ("clip-0000", "abcdefghijk_000015_000025", "val.csv", "time"),
        ("clip-0001", "abcdefghijk_000015_000025", "val.csv", "id"),
    ]
    assert report.against[0].skipped == 1
    assert check_leaks(csv, [folder]).keys() == ["abcdefghijk_000015_000025"]


def test_lists_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("k400", "k600"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "val.csv").write_text("youtube_id,time_start,time_end\nabcdefghijk,0,10\n")
        (tmp_path / name / "train.csv").write_text("youtube_id,time_start,time_end\nabcdefghijk,0,10\n")
    train, vals = tmp_path / "k400" / "train.csv", [tmp_path / name / "val.csv" for name in ("k400", "k600")]
    report = check_leaks(train, vals)
    assert [leak.list_name for leak in report.leaks] == ["k400/val.csv", "k600/val.csv"]
    with pytest.raises(ConfigError, match="named twice"):
        check_leaks(train, [*vals, vals[0]])


def test_a_list_against_itself_gives_each_pair_once_and_leaves_one_clip_of_each_video(tmp_path: Path) -> None:
    rows = ("aaaaaaaaaaa,0,10", "aaaaaaaaaaa,5,15", "aaaaaaaaaaa,40,50", "bbbbbbbbbbb,0,10")
    train = tmp_path / "train.csv"
    train.write_text("youtube_id,time_start,time_end\n" + "\n".join(rows) + "\n")
    found = find_leaks(train, [train], near=None, workers=1)
    keys = ["aaaaaaaaaaa_000000_000010", "aaaaaaaaaaa_000005_000015", "aaaaaaaaaaa_000040_000050"]
    pairs = [(leak.train.key, leak.against.key, leak.kind) for leak in found.overlap.leaks]
    assert pairs == [(keys[1], keys[0], "time"), (keys[2], keys[0], "id"), (keys[2], keys[1], "id")]
    assert found.overlap.keys() == keys[1:]
    assert found.overlap.keys("time") == keys[1:2]


def test_what_cannot_be_read_is_an_error_and_not_a_clean_report(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no manifest\.json"):
        read_spans(tmp_path, "x")
    folder = write_shards(tmp_path / "set", (1,), members=lambda _: {"json": b"[", "000.png": b""})
    with pytest.raises(DataError, match="json, txt or cls cannot be read"):
        read_spans(folder, "x")
