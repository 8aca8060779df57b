"""Images and captions: every form of annotation file finds its files and gives them all their captions."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from data_prep.checking.samples import samples_of
from data_prep.clip import Listing, RunOptions, StoreOptions
from data_prep.making.prepare import prepare
from data_prep.sources.pairs import list_pairs
from tests.support.annotations import (
    CC3M_TSV,
    CC12M_TSV,
    COCO_CAPTIONS,
    SBU_JSON,
    UMT_JSON,
    UMT_SQLITE,
    VG_REGIONS,
)
from tests.support.files import touch, written
from tests.support.paths import SHARED
from umt_ds.data.shards.sample_record import captions_of
from umt_ds.data.shards.storage import as_path
from umt_ds.errors import ConfigError, DataError

DATA = SHARED / "data"
there = pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")


def database(path: Path, column: str, rows: list[tuple[object, ...]]) -> Path:
    with sqlite3.connect(path) as connection:
        connection.execute(UMT_SQLITE.format(column=column))
        connection.executemany("INSERT INTO annos VALUES (?, ?, ?)", rows)
    connection.close()
    return path


def captions(listing: Listing) -> dict[str, tuple[str, ...]]:
    return {clip.source: clip.captions for clip in listing.clips}


def reasons(listing: Listing) -> dict[str, str]:
    return {left.source: left.reason for left in listing.left_out}


def test_umt_json_names_videos_with_one_caption_or_several(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "027701_027750/1053841541.mp4", "022401_022450/1019039938.mp4", "poster.jpg")
    listing = list_pairs(videos, annotations=written(tmp_path / "webvid.json", UMT_JSON))
    assert listing.media == "video"
    assert captions(listing) == {
        "027701_027750/1053841541.mp4": ("Travel blogger shoot a story on top of mountains.",),
        "022401_022450/1019039938.mp4": ("City traffic lights.", "blurred view"),
    }
    assert listing.notes[-1] == "2 videos have 3 captions"


def test_rows_for_the_same_image_are_one_sample_with_all_their_captions(tmp_path: Path) -> None:
    rows = [
        {"image": "a.jpg", "caption": "one"},
        {"image": "b.jpg", "caption": ["", "b"], "id": 7},
        {"image": "a.jpg", "caption": "two "},
        {"image": ["a.jpg", "b.jpg"], "caption": "one"},  # one text for several images, as in retrieval files
        {"image": "c.jpg", "caption": None},
        {"image": "gone.jpg", "caption": "x"},
        {"image": "d.jpg", "caption": "half \ud83d"},
    ]
    images = touch(tmp_path / "i", "a.jpg", "sub/b.jpg", "c.jpg", "d.jpg")
    listing = list_pairs(images, annotations=written(tmp_path / "p.json", json.dumps(rows)))
    assert captions(listing) == {"a.jpg": ("one", "two"), "sub/b.jpg": ("b", "one"), "d.jpg": ("half ?",)}
    assert reasons(listing) == {"c.jpg": "no caption", "gone.jpg": "missing: no such file"}
    assert (listing.media, listing.notes[-1]) == ("image", "3 images have 5 captions")


@pytest.mark.parametrize("column", ["image", "video", "filename"])
def test_the_sqlite_table_of_umt_is_read_whatever_its_column_is_called(tmp_path: Path, column: str) -> None:
    file = database(
        tmp_path / "webvid.sqlite.db", column, [(0, "x/1.mp4", "one"), (1, "2.mp4", None), (2, "3.mp4", "t")]
    )
    before = file.read_bytes()
    listing = list_pairs(touch(tmp_path / "v", "x/1.mp4", "2.mp4"), annotations=file)
    assert captions(listing) == {"x/1.mp4": ("one",)}
    assert reasons(listing) == {"2.mp4": "no caption", "3.mp4": "missing: no such file"}
    assert (file.read_bytes(), [path.name for path in tmp_path.glob("webvid*")]) == (before, ["webvid.sqlite.db"])


def test_a_database_in_an_object_store_is_read_from_a_copy(tmp_path: Path) -> None:
    bucket = as_path(f"memory://{tmp_path.name}")
    (bucket / "1.mp4").write_bytes(b"x")
    (bucket / "w.db").write_bytes(database(tmp_path / "w.db", "video", [(0, "1.mp4", "one")]).read_bytes())
    assert captions(list_pairs(bucket, annotations=bucket / "w.db")) == {"1.mp4": ("one",)}


def test_official_coco_captions_are_joined_with_their_images(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "val2014/COCO_val2014_000000391895.jpg", "val2014/COCO_val2014_000000184613.jpg")
    listing = list_pairs(images, annotations=written(tmp_path / "captions_val2014.json", COCO_CAPTIONS))
    assert captions(listing) == {
        "val2014/COCO_val2014_000000391895.jpg": (
            "A man with a red helmet on a small moped on a dirt road.",
            "Man riding a motor bike on a dirt road on the countryside.",
        )
    }
    assert reasons(listing) == {"COCO_val2014_000000522418.jpg": "missing: no such file"}
    assert "ignored 1 images that no row names" in listing.notes


@pytest.mark.parametrize(
    "file", ["000000000042.jpg", "COCO_val2014_000000000042.jpg", "COCO_train2014_000000000042.jpg"]
)
def test_coco_numbers_find_their_image_in_any_year_s_spelling(tmp_path: Path, file: str) -> None:
    results = written(tmp_path / "results.json", '[{"image_id": 42, "caption": "a cat"}]')
    lines = written(
        tmp_path / "l.jsonl", '{"id": "42", "image": "000000000042.jpg", "captions": ["a cat", "grey"]}\n\n'
    )
    images = touch(tmp_path / "i", file)
    assert captions(list_pairs(images, annotations=results)) == {file: ("a cat",)}
    assert captions(list_pairs(images, annotations=lines)) == {file: ("a cat", "grey")}


def test_cc3m_of_violet_needs_to_be_told_its_split(tmp_path: Path) -> None:
    violet = written(tmp_path / "v.json", '{"train": {"00000000": ["a bus"], "00000001": ["x"]}, "val": {"03": ["y"]}}')
    images = touch(tmp_path / "i", "00000000.jpg", "03.jpg")
    assert captions(list_pairs(images, annotations=violet, split="train")) == {"00000000.jpg": ("a bus",)}
    for split in (None, "test"):
        with pytest.raises(DataError, match="has the splits train, val"):
            list_pairs(images, annotations=violet, split=split)


def test_a_table_needs_file_names_which_the_published_cc3m_list_lacks(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "7_1.jpg")
    with pytest.raises(DataError, match=r"line 1 has 2 columns[\s\S]*img2dataset"):
        list_pairs(images, annotations=written(tmp_path / "Train_GCC-training.tsv", CC3M_TSV))
    lines = [f"{line}\t{n}_1" for n, line in enumerate(CC3M_TSV.splitlines(), start=7)]
    listing = list_pairs(images, annotations=written(tmp_path / "with_files.tsv", "\n".join(lines)))
    assert captions(listing) == {"7_1.jpg": ("a very typical bus station",)}
    header = written(tmp_path / "open_clip.tsv", 'filepath\ttitle\nx/7_1.jpg\t"a ""bus"" station"\n')
    assert captions(list_pairs(touch(tmp_path / "x", "x/7_1.jpg"), annotations=header)) == {
        "x/7_1.jpg": ('a "bus" station',)
    }


def test_cc12m_names_no_files_unless_a_third_column_does(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "00000/000000001.jpg")
    with pytest.raises(DataError, match=r"line 1 has 2 columns[\s\S]*CC12M[\s\S]*img2dataset"):
        list_pairs(images, annotations=written(tmp_path / "cc12m.tsv", CC12M_TSV))
    with pytest.raises(DataError, match=r"its columns are url, caption[\s\S]*img2dataset"):
        list_pairs(images, annotations=written(tmp_path / "head.tsv", f"url\tcaption\n{CC12M_TSV}"))
    lines = [f"{line}\t00000/{number:09d}.jpg" for number, line in enumerate(CC12M_TSV.splitlines())]
    listing = list_pairs(images, annotations=written(tmp_path / "named.tsv", "\n".join(lines)))
    assert captions(listing) == {"00000/000000001.jpg": ("A butterfly on a leaf, with a tab's width of sky",)}


@pytest.mark.parametrize(
    "file",
    ["4385058960_b0f291553e.jpg", "dataset/m_2723_4385058960_b0f291553e.jpg", "2723/4385058960_b0f291553e.jpg"],
)
def test_sbu_finds_its_pictures_however_they_were_downloaded(tmp_path: Path, file: str) -> None:
    images = touch(tmp_path / "sbu", file)
    listing = list_pairs(images, annotations=written(tmp_path / "sbu-captions-all.json", SBU_JSON))
    assert captions(listing) == {file: ("A wooden chair in the living room",)}
    assert reasons(listing) == {
        "http://static.flickr.com/3326/3596303505_3ce4c20529.jpg": "missing: no such file",
    }


@pytest.mark.parametrize("given", ["urls", "captions"])
def test_sbu_s_two_lists_are_read_together_line_for_line(tmp_path: Path, given: str) -> None:
    columns = json.loads(SBU_JSON)
    start = "SBU_captioned_photo_dataset"
    written(tmp_path / f"{start}_urls.txt", "\n".join(columns["image_urls"]) + "\n")
    written(tmp_path / f"{start}_captions.txt", "\r\n".join(["", columns["captions"][1]]) + "\r\n")
    images = touch(tmp_path / "sbu", "4385058960_b0f291553e.jpg", "3596303505_3ce4c20529.jpg")
    listing = list_pairs(images, annotations=tmp_path / f"{start}_{given}.txt")
    assert captions(listing) == {"3596303505_3ce4c20529.jpg": ("Little girl in the blue dress",)}
    assert list(reasons(listing).values()) == ["no caption"]
    written(tmp_path / f"{start}_captions.txt", "one\n")
    with pytest.raises(DataError, match=r"has 2 lines, SBU_captioned_photo_dataset_captions\.txt 1: line by line"):
        list_pairs(images, annotations=tmp_path / f"{start}_{given}.txt")


def test_phrases_of_visual_genome_are_captions_of_their_image(tmp_path: Path) -> None:
    images = touch(tmp_path / "vg", "VG_100K/1.jpg", "VG_100K_2/2407890.jpg")
    regions = written(tmp_path / "region_descriptions.json", VG_REGIONS)
    listing = list_pairs(images, annotations=regions)
    assert captions(listing) == {"VG_100K/1.jpg": ("the clock is green in colour", "shade is along the street")}
    assert reasons(listing) == {"2407890.jpg": "no caption"}
    assert "left out 1 captions that their image has already" in listing.notes
    large = list_pairs(images, annotations=regions, min_area=20_000)
    assert captions(large) == {"VG_100K/1.jpg": ("shade is along the street",)}
    assert "left out 2 of 3 phrases, of regions below 20,000 pixels" in large.notes
    assert large.about["min_area"] == 20_000


def test_rows_with_a_file_and_a_caption_are_pairs_whatever_else_they_say(tmp_path: Path) -> None:
    images = touch(tmp_path / "images", "0.jpg", "1.jpg")
    rows = [{"image": "0.jpg", "caption": "a dog", "phrase": "dog"}, {"image": "1.jpg", "caption": "b", "regions": 4}]
    listing = list_pairs(images, annotations=written(tmp_path / "p.json", json.dumps(rows)))
    assert captions(listing) == {"0.jpg": ("a dog",), "1.jpg": ("b",)}


def test_regions_of_the_first_version_say_their_image_otherwise(tmp_path: Path) -> None:
    regions = [
        {"image_id": 7, "regions": [{"phrase": "a cat", "x": 1, "y": 1, "width": 9, "height": 9, "synsets": []}]}
    ]
    listing = list_pairs(touch(tmp_path / "vg", "7.jpg"), annotations=written(tmp_path / "r.json", json.dumps(regions)))
    assert captions(listing) == {"7.jpg": ("a cat",)}


def test_names_without_suffix_are_images_unless_told_otherwise(tmp_path: Path) -> None:
    rows = written(tmp_path / "msrvtt.json", '[{"video": "video0", "caption": "x"}]')
    both = touch(tmp_path / "v", "video0.jpg", "video0.mp4")
    assert list(captions(list_pairs(both, annotations=rows))) == ["video0.jpg"]
    assert list(captions(list_pairs(both, annotations=rows, media="video"))) == ["video0.mp4"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.json", '{"a": 1}', "none of the forms"),
        ("p.json", "[1]", "entry 1 is no file with captions: 1"),
        ("p.json", '[{"image": "a.jpg", "caption": "x"}, {"image": "a.jpg"}]', "entry 2 is no file"),
        ("p.json", '[{"image": {}, "caption": "x"}]', "entry 1 is no file"),
        ("p.json", '[{"image": "a.jpg", "caption": [1]}]', "entry 1 is no file"),
        ("p.json", '{"images": {}, "annotations": 3}', "must be lists"),
        ("p.json", "[" * 100_000, "cannot be read as a JSON file"),
        ("p.json", "[]", "has no rows"),
        ("p.json", '[{"image": "../a.jpg", "caption": "x"}]', r"none of the 1 rows[\s\S]*\.\./a\.jpg"),
        ("p.json", '{"image_urls": ["a"], "captions": []}', r"are not lists of one length \(1, 0\)"),
        ("p.json", '[{"id": 1, "regions": 3}]', "entry 1 is no file with captions"),
        (
            "p.json",
            '[{"image_id": 1, "url": "u", "coco_id": 5}]',
            "no file with captions.*\\n.*region_descriptions.json",
        ),
        ("p.parquet", "PAR1", "no annotation file of pairs[\\s\\S]*umt-data parquet"),
        ("0.tar", "", "no annotation file of pairs[\\s\\S]*umt-data index"),
        ("x_urls.txt", "a", "x_captions.txt cannot be read"),
        ("p.jsonl", '{"image": "a.jpg", "caption": "x"}\n{', "one JSON object a line"),
        ("p.tsv", "a\thttp://b\tc\nd\n", "line 2 has 1 columns"),
        ("p.db", "SQLite format 3\0 and then nothing", "cannot be read as an SQLite database"),
    ],
)
def test_malformed_annotations_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list_pairs(touch(tmp_path / "i", "a.jpg"), annotations=written(tmp_path / name, text))


def test_a_split_of_a_file_without_splits_and_a_table_of_another_kind_are_refused(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.jpg")
    with pytest.raises(DataError, match="has no splits, so no 'train'"):
        list_pairs(images, annotations=written(tmp_path / "p.json", UMT_JSON), split="train")
    with pytest.raises(ConfigError, match=r"--min-area: .* has no regions"):
        list_pairs(images, annotations=written(tmp_path / "p.json", UMT_JSON), min_area=1)
    with pytest.raises(DataError, match="has no table annos"):
        list_pairs(images, annotations=database(tmp_path / "x.db", "url", []))


@there
@pytest.mark.parametrize(("folder", "count"), [("ccby_openimages18", 18), ("skimage_clip8", 8)])
def test_real_images_become_samples_with_their_captions(tmp_path: Path, folder: str, count: int) -> None:
    images = DATA / "images" / folder
    listing = list_pairs(images, annotations=images / "pairs.json").first_in_order()
    summary = prepare(listing, tmp_path, name="i", store=StoreOptions(short_side=64), run=RunOptions(workers=1))
    assert (summary.samples, len(summary.refused)) == (count, 0)
    samples = list(samples_of(tmp_path / "i-000000.tar"))
    assert {sample.media for sample in samples} == {"image"}
    stored = {text for sample in samples for text in captions_of(sample.record())}
    assert stored == {entry["caption"] for entry in json.loads((images / "pairs.json").read_text())}


@there
def test_published_annotation_files_find_their_images(tmp_path: Path) -> None:
    coco = DATA / "annotations" / "coco"
    images = touch(tmp_path, "val2014/COCO_val2014_000000296284.jpg", "val2014/COCO_val2014_000000404464.jpg")
    boxes = list_pairs(images, annotations=coco / "caps_boxes_coco2014_val_80.jsonl")
    results = list_pairs(images, annotations=coco / "captions_val2014_fakecap_results.json")
    assert (len(boxes.clips[0].captions), len(boxes.left_out), len(results.left_out)) == (5, 79, 999)
    violet = DATA / "annotations" / "cc3m" / "violet_txt_cc3m.json"
    cc3m = list_pairs(touch(tmp_path, "00000000.jpg"), annotations=violet, split="train")
    assert captions(cc3m) == {"00000000.jpg": ("a very typical bus station",)}
