"""Lists of labels and captions find their files: Something-Something, WebVid, `path label`; folders of frames."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from data_prep.clip import Clip, RunOptions, StoreOptions
from data_prep.making.prepare import prepare
from data_prep.sources.folder import list_folder
from data_prep.sources.names import FileFinder
from data_prep.sources.path_label import Split, list_path_label
from data_prep.sources.scan import scan
from data_prep.sources.something import list_something
from data_prep.sources.webvid import list_webvid
from data_prep.tables.labels import flip_notes
from data_prep.tables.table import Table
from tests.support.annotations import SSV2_ROWS, SSV2_TEST_ROWS, WEBVID_2M, WEBVID_10M
from tests.support.files import touch, written
from tests.support.paths import SHARED
from tests.support.videos import write_video
from umt_ds.data.shards.storage import as_path
from umt_ds.errors import DataError

ANNOTATIONS = SHARED / "data" / "annotations"
LISTS = ANNOTATIONS / "lists_path_label"
there = pytest.mark.skipif(not LISTS.is_dir(), reason=f"{LISTS} is not there")


def frames(folder: Path, count: int = 3) -> Path:
    return touch(folder, *(f"img_{number:05d}.jpg" for number in range(1, count + 1)))


def labels_of(clips: Sequence[Clip]) -> dict[str, int | None]:
    return {clip.source: clip.label for clip in clips}


# --- rows and names


def test_rows_come_one_at_a_time_with_the_columns_in_the_order_asked_for(tmp_path: Path) -> None:
    table = Table(written(tmp_path / "c.csv", "a,b,c\n1, 2 ,3\n4,5\n"), columns=("c", "b"), optional=("z",))
    rows = iter(table)
    assert next(rows) == (2, ("3", "2", ""))
    with pytest.raises(DataError, match="line 3 has 2 fields, its header 3"):
        next(rows)


def test_a_folder_of_numbered_pictures_is_found_as_one_video(tmp_path: Path) -> None:
    frames(tmp_path / "walk" / "v1.part")
    touch(tmp_path, "walk/v1.part/flow.txt", "walk/cover.png", "w.mp4", "00001.jpg")
    found = scan(tmp_path, "video", "frames")
    assert (found.videos, found.frame_folders) == (("w.mp4",), ("walk/v1.part",))
    assert found.ignored == {".txt": 1, ".png": 1, ".jpg": 1}  # pictures that lie in the folder itself are no video
    assert found.key("walk/v1.part") == "walk/v1%2Epart"  # its suffix is none
    assert scan(tmp_path, "image").images == (
        *("00001.jpg", "walk/cover.png"),
        *(f"walk/v1.part/img_{n:05d}.jpg" for n in (1, 2, 3)),
    )
    listing = list_folder(tmp_path, kind="frames")
    assert ([clip.source for clip in listing.clips], listing.media) == (["walk/v1.part"], "video")
    assert list_folder(tmp_path, kind="image").media == "image"


def test_a_name_finds_its_file_with_another_suffix_and_without_leading_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.mp4", "a/x.1.mp4", "b/x.mp4", "b/y.webm", "c/walk/1.mp4", "c/run/1.mp4", "v1.5_q.mp4")
    frames(tmp_path / "d" / "z.z")
    found = scan(tmp_path, "video", "frames")
    names = FileFinder(found, tmp_path)
    assert names.files_of("a/x.mp4") == names.files_of("a/x") == names.files_of("./a/x.avi") == ["a/x.mp4"]
    assert names.files_of("x.mp4") == ["a/x.mp4", "b/x.mp4"]
    assert names.files_of("y") == names.files_of("y.mp4") == ["b/y.webm"]
    assert names.files_of("run/1.mp4") == ["c/run/1.mp4"]
    assert names.files_of("sit/1.mp4") == []  # never a file of another folder: folders are classes
    assert names.files_of("v1.5_q") == ["v1.5_q.mp4"]
    assert names.files_of("z.z") == names.files_of("d/z.z.avi") == ["d/z.z"]
    assert found.at("y.webm") == names.files_of("../a/x.mp4") == names.files_of("/a/x.mp4") == []


# --- Something-Something V2


def classes_json(path: Path) -> Path:
    names = [
        *("Showing something on top of something", "Something falling like a feather or paper"),
        *("Spinning something that quickly stops spinning", "Pulling something from left to right"),
        "Pulling something from right to left",
    ]
    return written(path, json.dumps({name: str(number) for number, name in enumerate(names)}))


def test_something_takes_the_class_from_the_template_and_the_caption_from_the_sentence(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "20bn-something-something-v2/74225.webm", "20bn-something-something-v2/9.webm")
    frames(videos / "frames" / "36585")
    rows, labels = written(tmp_path / "validation.json", SSV2_ROWS), classes_json(tmp_path / "labels.json")
    listing = list_something(videos, annotations=rows, labels=labels)
    spinning, falling = listing.clips
    assert (spinning.key, spinning.label, spinning.captions) == (
        *("74225", 2),
        ("spinning cube that quickly stops spinning",),
    )
    assert (falling.source, falling.label_name) == ("frames/36585", "Something falling like a feather or paper")
    assert [(left.source, left.reason) for left in listing.left_out] == [("116154", "missing: no such video")]
    assert any("without horizontal flip" in note for note in listing.notes)
    assert "ignored 1 videos or frames that no row names" in listing.notes


def test_the_test_rows_of_something_have_neither_class_nor_caption(tmp_path: Path) -> None:
    rows, labels = written(tmp_path / "test.json", SSV2_TEST_ROWS), classes_json(tmp_path / "labels.json")
    (clip,) = list_something(touch(tmp_path / "v", "1420.webm"), annotations=rows, labels=labels).clips
    assert (clip.key, clip.label, clip.captions) == ("1420", None, ())


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        ('[{"id": "1", "label": "x", "template": "Eating [something]"}]', '{"Eating some": "0"}', "nearest: 'Eating"),
        ('[{"label": "x"}]', '{"a": "0"}', "entry 1 has no id"),
        ('{"id": "1"}', '{"a": "0"}', "holds no list"),
        ("[", '{"a": "0"}', "cannot be read as a JSON file"),
        ('[{"id": "1"}]', '{"a": "1", "b": "2"}', "not 0 to 1, each once"),
        ('[{"id": "1"}]', '{"a": "b"}', "is JSON, but no list of classes"),
        ('[{"id": null}]', '{"a": "0"}', "entry 1 has no id"),
        ('[{"id": "1", "label": 5}]', '{"a": "0"}', "entry 1, id 1: its label is no text: 5"),
        ('[{"id": "1", "id": "2"}]', '{"a": "0"}', "says 'id' twice"),
        ('[{"id": "2"}]', '{"a": "0"}', r"none of the 1 rows of [\s\S]*2\.webm"),
        ("[]", '{"a": "0"}', "has no rows"),
    ],
)
def test_malformed_files_of_something_are_refused(tmp_path: Path, rows: str, labels: str, message: str) -> None:
    videos = touch(tmp_path / "v", "1.webm")
    with pytest.raises(DataError, match=message):
        list_something(
            videos, annotations=written(tmp_path / "r.json", rows), labels=written(tmp_path / "l.json", labels)
        )


@there
def test_the_numbers_of_something_are_those_of_the_published_list(tmp_path: Path) -> None:
    names = (ANNOTATIONS / "label_maps" / "sthv2_label_map.txt").read_text().splitlines()
    labels = written(tmp_path / "labels.json", json.dumps({name: str(number) for number, name in enumerate(names)}))
    videos = touch(tmp_path / "v", "74225.webm", "116154.webm", "36585.webm")
    by_json = list_something(videos, annotations=written(tmp_path / "v.json", SSV2_ROWS), labels=labels)
    by_list = list_path_label(videos, rows=LISTS / "sthv2_rgb_validation_split.txt")
    assert labels_of(by_json.clips) == labels_of(by_list.clips)
    assert len(by_list.clips) + len(by_list.left_out) == 24_777


# --- path label


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("a b/x y.mp4,3\nz.mp4,0\n", None),
        ("a b/x y.mp4 3\nz.mp4 0\n\n", None),
        ("a b/x y.mp4\t3\nz.mp4\t0", None),
        ("a b/x y 120 3\nz 7 0\n", None),  # with the number of frames
        ("a b/x y,120,3\nz,7,0\n", None),
        ("\ufeffa b/x y 3\nz 0\n", "space"),
    ],
)
def test_lists_are_read_from_the_right_whatever_splits_them(tmp_path: Path, text: str, split: Split | None) -> None:
    videos = touch(tmp_path / "v", "a b/x y.mp4", "z.mp4")
    listing = list_path_label(videos, rows=written(tmp_path / "list.txt", text), split=split)
    assert labels_of(listing.clips) == {"a b/x y.mp4": 3, "z.mp4": 0}
    assert listing.labels == ("0", "1", "2", "3")


def test_a_list_tells_missing_and_repeated_rows_by_their_lines(tmp_path: Path) -> None:
    rows = written(tmp_path / "list.txt", "a.mp4 0\ngone.mp4 1\na 0\nx/b.mp4 -1\n")
    listing = list_path_label(touch(tmp_path / "v", "a.mp4", "x/b.mp4"), rows=rows)
    assert labels_of(listing.clips) == {"a.mp4": 0, "x/b.mp4": None}  # -1: a test list without labels
    assert [(left.source, left.reason) for left in listing.left_out] == [
        ("gone.mp4", "missing: no file for it (line 2)"),
        ("a", "repeated: line 3 names the file of line 1"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 0\nb.mp4\n", "line 2 does not end in a label: 'b.mp4'"),
        ("a.mp4 walk\n", "line 1 does not end in a label"),
        ("a.mp4 2\n", r"line 1: label 2 is beyond the 2 classes given\n.*numbered from 0"),
        ("b.mp4 0\n", r"none of the 1 rows[\s\S]*b\.mp4"),
        ("", "has no rows"),
    ],
)
def test_malformed_lists_are_refused(tmp_path: Path, text: str, message: str) -> None:
    classes = written(tmp_path / "classes.txt", "run\nwalk\n")
    with pytest.raises(DataError, match=message):
        list_path_label(touch(tmp_path / "v", "a.mp4"), rows=written(tmp_path / "l.txt", text), classes=classes)


def test_a_number_that_can_be_no_class_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="label 999999999 is no class number"):
        list_path_label(touch(tmp_path / "v", "a.mp4"), rows=written(tmp_path / "l.txt", "a.mp4 999999999\n"))


def test_numbers_that_disagree_with_the_folders_are_told(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "air drumming/y.mp4", "abseiling/x.mp4")
    rows = written(tmp_path / "l.txt", "abseiling/x.mp4,1\nair drumming/y.mp4,0\n")
    classes = written(tmp_path / "classes.txt", "abseiling\nair_drumming\n")
    for listing in (list_path_label(videos, rows=rows), list_path_label(videos, rows=rows, classes=classes)):
        assert any(
            "abseiling/x.mp4 has label 1, but its folder is class 0" in note and "K710 order" in note
            for note in listing.notes
        )
    agreeing = written(tmp_path / "classes.txt", "Air drumming\nAbseiling\n")
    assert list_path_label(videos, rows=rows, classes=agreeing).notes == ()
    assert labels_of(list_path_label(videos, rows=rows, classes=agreeing).clips)["abseiling/x.mp4"] == 1


def test_classes_that_mirror_each_other_forbid_the_flip() -> None:
    assert flip_notes(["Swiping Left", "Swiping Right", "Thumb Up"])[0].startswith("2 classes")
    assert flip_notes(["from left to right", "from right to left"])
    assert not flip_notes(["leftover cooking", "pulling it right out", "turn left"])


@there
@pytest.mark.parametrize(
    ("name", "files", "classes", "first", "count"),
    [
        ("k400_val.csv", "0wR5jVB-WPk.mp4", "k710/videomaev2_label_map_k710.txt", "abseiling", 19_787),
        (
            *("ucf101_split1_test.csv", "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi"),
            *("label_maps/ucf101_label_map.txt", "ApplyEyeMakeup", 3_783),
        ),
        (
            *("hmdb51_split1_val.txt", "run/likebeckam_run_f_cm_np1_ba_med_22.avi"),
            *("label_maps/hmdb51_label_map.txt", "run", 1_530),
        ),
        (
            *("sthv1_rgb_validation_split.txt", "85/00001.jpg"),
            *("label_maps/sthv1_label_map.txt", "Pushing something from left to right", 11_522),
        ),
    ],
)
def test_published_lists_name_their_classes(
    tmp_path: Path, name: str, files: str, classes: str, first: str, count: int
) -> None:
    listing = list_path_label(touch(tmp_path, files), rows=LISTS / name, classes=ANNOTATIONS / classes)
    assert [clip.label_name for clip in listing.clips] == [first]
    assert len(listing.clips) + len(listing.left_out) == count


@there
def test_the_published_k400_list_without_class_names_is_doubted(tmp_path: Path) -> None:
    rows = LISTS / "k400_val.csv"
    every = [line.rpartition(",")[0] for line in rows.read_text().splitlines()]
    listing = list_path_label(touch(tmp_path, *every[::10]), rows=rows)
    assert any("K710 order (abseiling is 341)" in note for note in listing.notes)


# --- WebVid


@pytest.mark.parametrize("text", [WEBVID_2M, WEBVID_10M])
@pytest.mark.parametrize("place", ["{page}/{id}.mp4", "{id}.mp4", "{id}.webm"])
def test_webvid_finds_its_videos_by_page_or_flat(tmp_path: Path, text: str, place: str) -> None:
    file = place.format(page="027701_027750", id="1053841541")
    listing = list_webvid(touch(tmp_path / "v", file, "other.mp4"), csv=written(tmp_path / "r.csv", text))
    (clip,) = listing.clips
    assert (clip.source, clip.captions) == (
        file,
        ("Travel blogger shoot a story on top of mountains. young man holds camera in forest.",),
    )
    assert listing.left_out[-1].source == "1019039938"
    assert {left.reason for left in listing.left_out} == {"missing: no such video"}
    assert listing.notes[1] == "ignored 1 videos that no row names"


def test_webvid_reads_a_folder_of_csv_files_and_reports_repeated_rows(tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    written(tmp_path / "csv" / "0000.csv", WEBVID_10M)
    written(tmp_path / "csv" / "0001.csv", WEBVID_2M)
    videos = touch(tmp_path / "v", "022401_022450/1019039938.mp4", "000851_000900/1020335461.mp4")
    listing = list_webvid(videos, csv=tmp_path / "csv")
    captions = {clip.source[14:]: clip.captions[0] for clip in listing.clips}
    assert captions == {
        "1019039938.mp4": "City traffic lights. blurred view",
        "1020335461.mp4": "Moroccan flag waving in the wind in medieval town essaouira, morocco",
    }
    assert ("1019039938", "repeated: an earlier row names this video") in [
        (left.source, left.reason) for left in listing.left_out
    ]
    assert len(listing.clips) + len(listing.left_out) == 6


def test_webvid_shows_the_names_it_looked_for(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "x.mp4")
    with pytest.raises(DataError, match=r"none of the 4 rows[\s\S]*027701_027750/1053841541\.mp4 or 1053841541\.mp4"):
        list_webvid(videos, csv=written(tmp_path / "r.csv", WEBVID_2M))
    with pytest.raises(DataError, match="no column videoid and name"):
        list_webvid(videos, csv=written(tmp_path / "r.csv", "id,text\n1,x\n"))


def test_a_listed_video_becomes_a_sample(tmp_path: Path) -> None:
    write_video(tmp_path / "v" / "022401_022450" / "1019039938.mp4")
    listing = list_webvid(tmp_path / "v", csv=written(tmp_path / "r.csv", WEBVID_10M)).first_in_order()
    summary = prepare(listing, tmp_path / "out", name="w", store=StoreOptions(frames=2), run=RunOptions(workers=1))
    assert (summary.samples, len(summary.refused)) == (1, 0)
    assert "missing: no such video" in (tmp_path / "out" / "bad.csv").read_text()


def test_videos_and_lists_in_an_object_store_are_read_as_on_a_disk(tmp_path: Path) -> None:
    bucket = as_path(f"memory://{tmp_path.name}")
    for name in ("v/022401_022450/1019039938.mp4", "v/a/b/00001.jpg", "v/readme.txt"):
        (bucket / name).write_bytes(b"x")
    (bucket / "r.csv").write_text(WEBVID_2M)
    found = scan(bucket / "v", "video", "frames")
    assert (found.videos, found.frame_folders) == (("022401_022450/1019039938.mp4",), ("a/b",))
    assert [clip.source for clip in list_webvid(bucket / "v", csv=bucket / "r.csv").clips] == list(found.videos)
    (bucket / "l.txt").write_text("b,5,1\n")
    assert labels_of(list_path_label(bucket / "v", rows=bucket / "l.txt").clips) == {"a/b": 1}
