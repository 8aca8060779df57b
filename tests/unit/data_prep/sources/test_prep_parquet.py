"""Parquet files of the Hugging Face hub: each row is a clip, of the bytes in the file or of a file beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from data_prep.clip import Listing, Outcome, Refusal, RunOptions, Sample, StoreOptions
from data_prep.decode import make_sample
from data_prep.making.cells import with_bytes
from data_prep.making.prepare import build_shards, close_set, prepare
from data_prep.sources.before import Before, leave_out
from data_prep.sources.folder import list_folder
from data_prep.sources.parquet import list_parquet
from data_prep.sources.parquet_columns import Choice
from data_prep.state.plan import begin, go_on
from data_prep.tables import parquet_files
from data_prep.tables.parquet_files import CellReader
from tests.support.files import hashes_in
from tests.support.parquet import MEDIA, cell, classes, write_parquet
from tests.support.umt_data import Umt, umt_data
from tests.support.videos import write_video
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.storage import as_path
from umt_ds.errors import ConfigError, DataError, UmtError

ONE = RunOptions(workers=1)
STORE = StoreOptions(frames=2, short_side=16, per_shard=3)


@pytest.fixture
def umt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Umt:
    return umt_data(monkeypatch, capsys)


def write_picture(path: Path, level: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 24, 3), level, np.uint8)).save(path)
    return path


def pictures(folder: Path, count: int) -> list[Path]:
    return [write_picture(folder / f"p{number}.jpg", 20 * number + 10) for number in range(count)]


def write_pictures(path: Path, files: list[Path], *, group: int = 100, **more: Any) -> Path:
    """A file with these pictures in the column `image`."""
    return write_parquet(path, {"image": [cell(file) for file in files], **more}, group=group, image=MEDIA)


def outcomes(listing: Listing, spool: Path) -> dict[str, Outcome]:
    """What becomes of each clip, by its source, as a writer and its worker do it."""
    spool.mkdir()
    return {
        clip.source: clip
        if isinstance(clip, Refusal)
        else make_sample(clip, root=listing.root, media=listing.media, store=STORE, spool=spool)
        for clip in with_bytes(listing.first_in_order().clips, root=listing.root, spool=spool)
    }


def members(listing: Listing, spool: Path) -> dict[str, dict[str, bytes]]:
    """The members of each sample, by its key, without what the json says of where it was."""
    samples = [one for one in outcomes(listing, spool).values() if isinstance(one, Sample)]
    found = {sample.key: dict(sample.members) for sample in samples}
    for one in found.values():
        told = json.loads(one["json"])
        del told["source"]
        one["json"] = json.dumps(told).encode()
    return found


def reasons(listing: Listing, spool: Path) -> dict[str, str]:
    made = outcomes(listing, spool)
    return {source: one.reason for source, one in made.items() if isinstance(one, Refusal)}


def captions(listing: Listing) -> dict[str, tuple[str, ...]]:
    return {clip.source: clip.captions for clip in listing.clips}


# ---------------------------------------------------------------- what becomes of the rows


def test_pictures_in_a_file_become_the_samples_that_their_files_become(tmp_path: Path) -> None:
    files = pictures(tmp_path / "files", 7)
    write_pictures(tmp_path / "hub" / "data" / "train-00000-of-00002.parquet", files[:4], group=3)
    write_pictures(tmp_path / "hub" / "data" / "train-00001-of-00002.parquet", files[4:], group=3)
    of_rows = members(list_parquet(tmp_path / "hub", choice=Choice(key="image.path")), tmp_path / "of-rows")
    assert sorted(of_rows) == [f"p{number}" for number in range(7)]
    assert of_rows == members(list_folder(tmp_path / "files", kind="image"), tmp_path / "of-files")


def test_videos_in_a_column_of_bytes_become_the_samples_that_their_files_become(tmp_path: Path) -> None:
    files = [write_video(tmp_path / "files" / f"v{number}.mp4", frames=6 + number) for number in range(3)]
    rows = {"id": [file.stem for file in files], "clip": [file.read_bytes() for file in files]}
    write_parquet(tmp_path / "hub" / "train.parquet", rows, group=2)
    listing = list_parquet(tmp_path / "hub", choice=Choice(key="id"))
    assert listing.media == "video"
    of_rows = members(listing, tmp_path / "of-rows")
    assert sorted(of_rows) == ["v0", "v1", "v2"]
    assert of_rows == members(list_folder(tmp_path / "files"), tmp_path / "of-files")


def test_a_row_without_a_key_column_is_called_by_its_file_and_number(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data" / "test-00000-of-00001.parquet", pictures(tmp_path / "f", 2))
    listing = list_parquet(tmp_path)
    assert sorted(clip.key for clip in listing.clips) == [
        "data/test-00000-of-00001/000000",
        "data/test-00000-of-00001/000001",
    ]
    assert listing.clips[0].source == "data/test-00000-of-00001.parquet#image[0]"


def test_captions_labels_and_the_names_of_classes_are_those_of_the_file(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "image": [cell(file) for file in pictures(tmp_path / "f", 3)],
        "caption": [["a cat", " ", "grey"], [], None],
        "label": [1, 0, -1],
        "url": ["u", "u", "u"],
    }
    features = {"image": {"_type": "Image"}, "label": classes("dog", "cat")}
    write_parquet(tmp_path / "train.parquet", columns, features=features, image=MEDIA)
    listing = list_parquet(tmp_path)
    assert [(clip.captions, clip.label, clip.label_name) for clip in listing.clips] == [
        (("a cat", "grey"), 1, "cat"),
        ((), 0, "dog"),
        ((), None, None),
    ]
    assert listing.labels == ("dog", "cat")
    assert listing.notes == (
        "3 images in the column image", "1 have a caption (caption)", "2 have a label (label)", "not used: url",
    )  # fmt: skip


def test_a_class_list_that_is_given_renumbers_the_classes_by_name(tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text("ant\ncat\ndog\n")
    features = {"label": classes("dog", "cat")}
    columns: dict[str, list[Any]] = {"image": [cell(f) for f in pictures(tmp_path / "f", 2)], "label": [0, 1]}
    write_parquet(tmp_path / "hub" / "a.parquet", columns, features=features, image=MEDIA)
    listing = list_parquet(tmp_path / "hub", classes=tmp_path / "all.txt")
    assert [(clip.label, clip.label_name) for clip in listing.clips] == [(2, "dog"), (1, "cat")]


def test_labels_without_names_keep_their_numbers_and_texts_are_sorted(tmp_path: Path) -> None:
    images = [cell(file) for file in pictures(tmp_path / "f", 2)]
    write_parquet(tmp_path / "a" / "x.parquet", {"image": images, "label": [3, -1]}, image=MEDIA)
    assert [clip.label for clip in list_parquet(tmp_path / "a").clips] == [3, None]
    write_parquet(tmp_path / "b" / "x.parquet", {"image": images, "kind": ["walk", "run"]}, image=MEDIA)
    listing = list_parquet(tmp_path / "b", choice=Choice(label="kind"))
    assert ([clip.label for clip in listing.clips], listing.labels) == ([1, 0], ("run", "walk"))


def test_rows_without_bytes_are_read_from_their_files_and_addresses_are_left_out(tmp_path: Path) -> None:
    [inside] = pictures(tmp_path / "f", 1)
    write_picture(tmp_path / "hub" / "images" / "b.jpg", 99)
    rows = [
        cell(inside),
        {"bytes": None, "path": "images/b.jpg"},
        {"bytes": None, "path": "images/gone.jpg"},
        {"bytes": None, "path": "https://example.org/c.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    write_parquet(tmp_path / "hub" / "train.parquet", {"image": rows}, image=MEDIA)
    listing = list_parquet(tmp_path / "hub")
    assert [clip.source for clip in listing.clips] == ["train.parquet#image[0]", "images/b.jpg"]
    assert {left.source: left.reason for left in listing.left_out} == {
        "train.parquet#image[2]": "no bytes, and its file is missing",
        "train.parquet#image[3]": "an address instead of bytes: nothing is downloaded here",
        "train.parquet#image[4]": "neither bytes nor a path",
        "train.parquet#image[5]": "neither bytes nor a path",
    }
    assert len(members(listing, tmp_path / "spool")) == 2


def test_a_column_of_paths_names_files_below_the_folder(tmp_path: Path) -> None:
    write_video(tmp_path / "clips" / "a.mp4")
    rows = {"video": ["clips/a.mp4", "clips/b.mp4"], "text": ["one", "two"]}
    write_parquet(tmp_path / "data.parquet", rows)
    listing = list_parquet(tmp_path)
    assert (listing.media, captions(listing)) == ("video", {"clips/a.mp4": ("one",)})


def test_bytes_that_are_no_picture_cost_their_row(tmp_path: Path) -> None:
    good = pictures(tmp_path / "f", 1)[0].read_bytes()
    write_parquet(tmp_path / "x.parquet", {"image": [good, b"", b"\xff\xd8 no more"]})
    why = reasons(list_parquet(tmp_path), tmp_path / "spool")
    assert sorted(why) == ["x.parquet#image[1]", "x.parquet#image[2]"]
    assert why["x.parquet#image[1]"] == "file is empty (0 bytes)"


# ---------------------------------------------------------------- row groups


def test_rows_of_a_row_group_stay_together_in_the_same_order_anywhere(tmp_path: Path) -> None:
    files = pictures(tmp_path / "f", 9)
    write_pictures(tmp_path / "hub" / "a.parquet", files[:6], group=2)
    write_pictures(tmp_path / "hub" / "b.parquet", files[6:], group=2)
    listing = list_parquet(tmp_path / "hub").first_in_order(5)
    groups = [(clip.source[0], int(clip.source[16:-1]) // 2) for clip in listing.clips]
    assert [groups[0], groups[2], groups[4]] == list(dict.fromkeys(groups))
    assert groups != sorted(groups)


def test_each_row_group_is_read_once_whatever_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "a.parquet", pictures(tmp_path / "f", 10), group=8)
    opened: list[int] = []
    values = parquet_files._values

    def counted(reader: parquet.ParquetFile, group: int, leaf: str) -> Any:
        opened.append(group)
        return values(reader, group, leaf)

    monkeypatch.setattr(parquet_files, "_values", counted)
    listing = list_parquet(tmp_path)
    opened.clear()  # it was looked whether they are pictures
    assert len(members(listing, tmp_path / "spool")) == 10
    assert sorted(opened) == [0, 1]


def test_a_few_megabytes_of_a_row_group_are_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "a.parquet", {"image": [bytes([number]) * 10_000 for number in range(100)]}, group=100)
    asked: list[int] = []
    iter_batches = parquet.ParquetFile.iter_batches

    def counted(self: parquet.ParquetFile, batch_size: int, **how: Any) -> Any:
        asked.append(batch_size)
        return iter_batches(self, batch_size, **how)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", counted)
    monkeypatch.setattr(parquet_files, "_AT_ONCE", 50_000)
    reader = CellReader(tmp_path)
    assert [reader.read("a.parquet", "image", row) for row in (3, 99)] == [bytes([3]) * 10_000, bytes([99]) * 10_000]
    assert asked == [4]  # of a little more than 10,000 bytes each
    reader.close()


def test_a_reader_finds_cells_in_any_order(tmp_path: Path) -> None:
    rows = [f"{number}".encode() for number in range(7)]
    write_parquet(tmp_path / "a.parquet", {"image": rows}, group=3)
    write_parquet(tmp_path / "b.parquet", {"image": [None, b"x"]}, group=3, image=pa.large_binary())
    reader = CellReader(tmp_path)
    asked = [("a", 1), ("a", 5), ("a", 5), ("a", 0), ("b", 1), ("b", 0), ("a", 6)]
    assert [reader.read(f"{file}.parquet", "image", row) for file, row in asked] == [
        b"1", b"5", b"5", b"0", b"x", None, b"6",
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"a\.parquet is another than it was: it has no such row with bytes"):
        reader.read("a.parquet", "image", 7)
    reader.close()


def test_a_damaged_page_costs_the_rows_behind_it_and_no_others(tmp_path: Path) -> None:
    file = write_pictures(tmp_path / "a.parquet", pictures(tmp_path / "f", 4), group=2)
    column = parquet.ParquetFile(file).metadata.row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(file.read_bytes())
    data[start : start + 30] = bytes(30)
    file.write_bytes(data)
    why = reasons(list_parquet(tmp_path), tmp_path / "spool")
    assert sorted(why) == ["a.parquet#image[2]", "a.parquet#image[3]"]
    assert all(reason.startswith("is damaged: ") for reason in why.values()), "wherever the file lies"


def test_parts_and_a_second_try_give_the_bytes_of_one_run(tmp_path: Path) -> None:
    write_pictures(tmp_path / "hub" / "a.parquet", pictures(tmp_path / "f", 8), group=5)
    listing = list_parquet(tmp_path / "hub")
    prepare(listing.first_in_order(), tmp_path / "once", name="set", store=STORE, run=ONE)
    with begin(tmp_path / "parts", name="set", listing=listing.first_in_order(), store=STORE):
        pass
    for shards in ([1], [0, 2]):
        with go_on(tmp_path / "parts", alone=False) as plan:
            build_shards(plan, plan.pending(shards), run=ONE)
    with go_on(tmp_path / "parts", alone=True) as plan:
        close_set(plan)
    assert hashes_in(tmp_path / "parts") == hashes_in(tmp_path / "once")
    assert load_manifest(tmp_path / "parts").num_samples == 8


def test_files_of_an_object_store_are_read_where_they_lie(tmp_path: Path) -> None:
    bucket = as_path(f"memory://{tmp_path.name}")
    file = write_pictures(tmp_path / "train.parquet", pictures(tmp_path / "f", 3), group=2, caption=["a", "b", "c"])
    (bucket / "data" / "train.parquet").write_bytes(file.read_bytes())
    listing = list_parquet(bucket)
    assert sorted(captions(listing)) == [f"data/train.parquet#image[{row}]" for row in range(3)]
    assert len(members(listing, tmp_path / "spool")) == 3


def test_a_file_that_is_gone_costs_its_rows_and_says_so(tmp_path: Path) -> None:
    files = pictures(tmp_path / "f", 2)
    write_pictures(tmp_path / "hub" / "a.parquet", files[:1])
    gone = write_pictures(tmp_path / "hub" / "b.parquet", files[1:])
    listing = list_parquet(tmp_path / "hub")
    gone.unlink()
    assert reasons(listing, tmp_path / "spool") == {"b.parquet#image[0]": "cannot be read: No such file or directory"}


def test_rows_that_are_added_become_shards_of_their_own(tmp_path: Path) -> None:
    files = pictures(tmp_path / "f", 3)
    write_pictures(tmp_path / "hub" / "a.parquet", files[:2])
    before = list_parquet(tmp_path / "hub").first_in_order()
    write_pictures(tmp_path / "hub" / "b.parquet", files[2:])
    after = list_parquet(tmp_path / "hub").first_in_order()
    with begin(tmp_path / "set", name="set", listing=before, store=STORE):
        pass
    with begin(tmp_path / "set", name="set", listing=after, store=STORE) as (plan, _):
        assert [[clip.source for clip in plan.clips_of(shard)] for shard in range(plan.num_shards)] == [
            ["a.parquet#image[0]", "a.parquet#image[1]"],
            ["b.parquet#image[0]"],
        ]


# ---------------------------------------------------------------- what img2dataset writes


def img2dataset_notes(files: list[Path | None]) -> dict[str, list[Any]]:
    """The columns of its parquet files; None is a download that failed."""
    return {
        "url": [f"https://a.org/{number}.jpg" for number in range(len(files))],
        "caption": [f"caption {number}" for number in range(len(files))],
        "key": [f"{number:09d}" for number in range(len(files))],
        "status": ["failed_to_download" if file is None else "success" for file in files],
        "error_message": ["HTTP Error 404" if file is None else None for file in files],
        "width": [None if file is None else 256 for file in files],
    }


def test_img2dataset_s_parquet_files_have_bytes_where_the_download_succeeded(tmp_path: Path) -> None:
    first, second = pictures(tmp_path / "f", 2)
    files = [first, None, second]
    columns = {**img2dataset_notes(files), "jpg": [file.read_bytes() if file else None for file in files]}
    write_parquet(tmp_path / "cc12m" / "00000.parquet", columns)
    listing = list_parquet(tmp_path / "cc12m", choice=Choice(key="key"))
    assert [(clip.key, clip.captions) for clip in listing.clips] == [
        ("000000000", ("caption 0",)),
        ("000000002", ("caption 2",)),
    ]
    assert [left.reason for left in listing.left_out] == ["neither bytes nor a path"]


def test_img2dataset_s_files_are_found_by_their_keys(tmp_path: Path) -> None:
    columns = img2dataset_notes([tmp_path, None])
    write_parquet(tmp_path / "cc12m" / "00000.parquet", columns)
    write_picture(tmp_path / "cc12m" / "00000" / "000000000.jpg", 40)
    with pytest.raises(DataError, match="the folder of this name beside it has them: --media key"):
        list_parquet(tmp_path / "cc12m")
    listing = list_parquet(tmp_path / "cc12m", choice=Choice(media="key"))
    assert captions(listing) == {"00000/000000000.jpg": ("caption 0",)}
    assert [left.reason for left in listing.left_out] == ["no bytes, and its file is missing"]


def test_the_notes_beside_tars_send_to_the_command_for_tars(tmp_path: Path) -> None:
    write_parquet(tmp_path / "00000.parquet", img2dataset_notes([tmp_path]))
    (tmp_path / "00000.tar").touch()
    with pytest.raises(DataError, match=r"the tar of this name beside it has them: `umt-data index"):
        list_parquet(tmp_path)


# ---------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("data/train-00000-of-00012.parquet", "train"),
        ("data/validation-00000-of-00001-a1b2.parquet", "validation"),
        ("default/train/0000.parquet", "train"),
        ("my-val.parquet", "val"),
        ("plain_text/test-00000-of-00001.parquet", "test"),
        ("data/unsupervised-00000-of-00001.parquet", "unsupervised"),
    ],
)
def test_a_split_is_told_by_names_as_the_hub_tells_it(tmp_path: Path, file: str, split: str) -> None:
    [picture] = pictures(tmp_path / "f", 1)
    write_pictures(tmp_path / "hub" / file, [picture])
    write_pictures(tmp_path / "hub" / "data" / "other-00000-of-00001.parquet", [picture])
    listing = list_parquet(tmp_path / "hub", split=split)
    assert [clip.source for clip in listing.clips] == [f"{file}#image[0]"]
    with pytest.raises(DataError, match=r"has several splits: .*other \(1 files\)"):
        list_parquet(tmp_path / "hub")


def test_files_of_no_split_beside_one_are_not_mixed_in(tmp_path: Path) -> None:
    [picture] = pictures(tmp_path / "f", 1)
    for file in ("train-0.parquet", "more.parquet", ".cache/huggingface/old.parquet"):
        write_pictures(tmp_path / "hub" / file, [picture])
    with pytest.raises(DataError, match=r"several splits: none by their names \(1 files\), train \(1 files\)"):
        list_parquet(tmp_path / "hub")
    assert list(captions(list_parquet(tmp_path / "hub", split="train"))) == ["train-0.parquet#image[0]"]
    with pytest.raises(DataError, match=r"has no split 'dev': none by their names"):
        list_parquet(tmp_path / "hub", split="dev")


# ---------------------------------------------------------------- what goes wrong


IMAGE = {"image": [b"x"]}
WRONG: list[tuple[dict[str, Any], Choice, str]] = [
    (
        {"url": ["https://a/b.jpg"], "caption": ["a"]},
        Choice(),
        "url has addresses, and nothing is downloaded here: img2d",
    ),
    (
        {"image": ["https://a/b.jpg"]},
        Choice(),
        "an address instead of bytes: nothing is downloaded here\n.*img2dataset",
    ),
    (
        {"text": ["a"], "n": [1]},
        Choice(),
        r"no column with pictures, videos or their paths: text \(string\), n \(int64\)",
    ),
    ({"a": [b"x"], "b": [b"y"]}, Choice(), r"2 columns of bytes: a \(binary\), b \(binary\)\n.*--media"),
    (
        {"image": ["gone.jpg"]},
        Choice(),
        "not one of 1 rows has a file: image of the first has no bytes, and its file is",
    ),
    (IMAGE, Choice(media="video"), r"--media video: .* has no such column\n.*it has image \(binary\)"),
    ({**IMAGE, "alt": ["a"]}, Choice(caption="captions"), r"--caption captions: .*\n.*it has image \(binary\), alt"),
    (
        {**IMAGE, "n": [1], "alt": ["a"]},
        Choice(caption="n"),
        "holds int64, which is no text .*\n.*columns that are: alt",
    ),
    (
        {**IMAGE, "when": [1.5]},
        Choice(label="when"),
        "--label when: it holds double, which is no number or name of a cl",
    ),
    (
        {**IMAGE, "objects": [["cat", "dog"]]},
        Choice(label="objects"),
        "--label objects: it holds list.* which is no number or name of a class",
    ),
    (
        {"image": [b"x", b"y"], "id": [7, 7]},
        Choice(key="id"),
        "1 of its values stand in several rows; '7' in x.parquet",
    ),
    ({"image": [b"x", b"y"], "id": ["a//b", "a/b"]}, Choice(key="id"), "'a/b' in x.parquet"),
    ({"image": [b"x"], "id": [""]}, Choice(key="id"), "row 0 has nothing in id"),
    ({"image": []}, Choice(), "have no rows|no column with"),
]


@pytest.mark.parametrize(("columns", "choice", "message"), WRONG)
def test_what_is_wrong_with_columns_is_one_error_that_names_those_there(
    tmp_path: Path, columns: dict[str, Any], choice: Choice, message: str
) -> None:
    write_parquet(tmp_path / "x.parquet", columns)
    with pytest.raises(UmtError, match=f"(?s){message}"):
        list_parquet(tmp_path, choice=choice)


def test_a_list_of_classes_is_no_class_that_is_guessed(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", {**IMAGE, "labels": [["cat", "dog"]]})
    listing = list_parquet(tmp_path)
    assert (listing.labels, listing.clips[0].label) == ((), None)
    assert {"no labels (--label COLUMN)", "not used: labels"} <= set(listing.notes)


def test_a_file_without_rows_says_nothing_of_the_columns(tmp_path: Path) -> None:
    """What writes an empty shard does not know the types of its columns."""
    write_parquet(tmp_path / "train-00000-of-00002.parquet", {"image": [], "caption": []}, image=MEDIA)
    write_pictures(tmp_path / "train-00001-of-00002.parquet", pictures(tmp_path / "f", 1), caption=["a"])
    assert captions(list_parquet(tmp_path)) == {"train-00001-of-00002.parquet#image[0]": ("a",)}


def test_a_first_row_that_is_damaged_makes_no_videos_of_pictures(tmp_path: Path) -> None:
    [picture] = pictures(tmp_path / "f", 1)
    write_parquet(tmp_path / "x.parquet", {"image": [b"", b"damaged", picture.read_bytes()]})
    listing = list_parquet(tmp_path)
    assert (listing.media, listing.notes[0]) == ("image", "3 images in the column image")
    assert sorted(reasons(listing, tmp_path / "spool")) == ["x.parquet#image[0]", "x.parquet#image[1]"]


OF_64_BITS = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])


def test_large_and_view_types_as_other_programs_write_them_are_read(tmp_path: Path) -> None:
    files = pictures(tmp_path / "beside" / "f", 2)
    rows = [cell(files[0]), {"bytes": None, "path": "f/p1.jpg"}]
    write_parquet(tmp_path / "beside" / "a.parquet", {"image": rows}, image=OF_64_BITS)
    assert [clip.source for clip in list_parquet(tmp_path / "beside").clips] == ["a.parquet#image[0]", "f/p1.jpg"]
    columns = {"image": [files[0].read_bytes()], "caption": ["a"]}
    write_parquet(tmp_path / "views" / "a.parquet", columns, image=pa.binary_view(), caption=pa.string_view())
    listing = list_parquet(tmp_path / "views")
    assert captions(listing) == {"a.parquet#image[0]": ("a",)}
    assert reasons(listing, tmp_path / "spool") == {}


def test_files_that_are_none_say_what_they_are(tmp_path: Path) -> None:
    pointer = tmp_path / "lfs" / "train.parquet"
    pointer.parent.mkdir()
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:fcd8d1\nsize 294281401\n")
    with pytest.raises(DataError, match=r"is a pointer of Git LFS, and not the file itself\n.*git lfs pull"):
        list_parquet(tmp_path / "lfs")
    (tmp_path / "half").mkdir()
    whole = write_parquet(tmp_path / "w.parquet", {"image": [b"x"]}).read_bytes()
    (tmp_path / "half" / "a.parquet").write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"a\.parquet is no parquet file, or not all of one"):
        list_parquet(tmp_path / "half")
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "data-00000-of-00001.arrow").touch()
    with pytest.raises(DataError, match=r"only \.arrow 1(?s:.*)to_parquet"):
        list_parquet(tmp_path / "disk")


def test_files_of_two_configurations_are_told_apart(tmp_path: Path) -> None:
    [picture] = pictures(tmp_path / "f", 1)
    write_pictures(tmp_path / "hub" / "a" / "train.parquet", [picture], caption=["x"])
    write_pictures(tmp_path / "hub" / "b" / "train.parquet", [picture], text=["x"])
    with pytest.raises(DataError, match=r"has the column caption \(string\), and .*b/train\.parquet none"):
        list_parquet(tmp_path / "hub")


def test_a_label_beyond_its_classes_is_an_error(tmp_path: Path) -> None:
    columns = {"image": [b"x"], "label": [5]}
    write_parquet(tmp_path / "x.parquet", columns, features={"label": classes("a", "b")})
    with pytest.raises(DataError, match=r"label 5 of label \(ClassLabel\) is beyond its 2 classes"):
        list_parquet(tmp_path)


def test_headers_of_cells_are_not_asked_for(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a.parquet", pictures(tmp_path / "f", 2), caption=["a dog", "a big cat sleeps"])
    listing = list_parquet(tmp_path)
    assert [c.captions for c in leave_out(listing, Before(min_words=3), workers=1).clips] == [("a big cat sleeps",)]
    with pytest.raises(ConfigError, match="no files of their own"):
        leave_out(listing, Before(min_side=10), workers=1)


def test_the_command_says_what_it_would_do_and_does_it(tmp_path: Path, umt: Umt) -> None:
    write_pictures(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", pictures(tmp_path / "f", 3))
    said = umt("parquet", tmp_path / "hub", tmp_path / "set", "--dry-run", "--workers", 1)
    assert said.code == 0
    assert "would make 1 shards" in said.out
    assert "data/train-00000-of-00001.parquet#image[0] → data/train-00000-of-00001/000000" in said.out
    assert not (tmp_path / "set").exists()
    said = umt("parquet", tmp_path / "hub", tmp_path / "set", "--split", "train", "--workers", 1)
    assert (said.code, "3 samples + 0 refused = 3 in all" in said.out) == (0, True)
    assert load_manifest(tmp_path / "set").options["split"] == "train"
