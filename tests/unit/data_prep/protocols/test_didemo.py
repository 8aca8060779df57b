"""DiDeMo: its official files and those of UMT and VindLU become the same paragraphs, of the first 30 seconds."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from data_prep.making.item_table import read_items, write_table
from data_prep.protocols.known import PROTOCOLS, protocol
from tests.support import caption_files
from tests.support.shards import frame, picture, write_shards
from tests.support.umt_data import Umt, umt_data
from tests.support.videos import frame_number, write_video
from umt_ds.data.clip_request import ClipRequest, published_frames
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.data.order.views import Views
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.errors import DataError
from umt_ds.evaluation.published import published_split


@pytest.fixture
def umt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Umt:
    """`umt-data WORDS…` in this process."""
    return umt_data(monkeypatch, capsys)


NAMES = ("10015567@N08_3655084291_d8b58466fa.mov", "10052357@N03_7585070382_5762149bfc.")
KEYS = ("10015567%40N08_3655084291_d8b58466fa", "10052357%40N03_7585070382_5762149bfc")
# as train_data.json has them: an entry a description, in no order of videos
OFFICIAL: list[dict[str, Any]] = [
    {"num_segments": 6, "description": "a cat jumps. ", "times": [[1, 1]], "video": NAMES[0], "annotation_id": 2},
    {"num_segments": 5, "description": "dog runs", "times": [[0, 0]], "video": NAMES[1], "annotation_id": 3},
    {"num_segments": 6, "description": "it leaves", "times": [[2, 3]], "video": NAMES[0], "annotation_id": 1},
]
PUBLISHED = [{"video": NAMES[0], "caption": ["a cat jumps.", "it leaves"]}, {"video": NAMES[1], "caption": "dog runs"}]
PARAGRAPHS = [(NAMES[0], "a cat jumps. it leaves"), (NAMES[1], "dog runs")]


def as_json(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows))
    return path


def as_sqlite(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE annos (id INTEGER, filename TEXT, caption TEXT)")
        rows = [(number, row["video"], row["description"]) for number, row in enumerate(OFFICIAL)]
        database.executemany("INSERT INTO annos VALUES (?, ?, ?)", rows)
    return path


def rows_of(name: str, file: Path) -> list[dict[str, Any]]:
    return [said[1] for said in protocol(name).read([file]) if isinstance(said, tuple)]


def test_all_published_forms_give_the_same_rows_in_the_same_order(tmp_path: Path) -> None:
    files = [as_json(tmp_path / "train_data.json", OFFICIAL), as_json(tmp_path / "didemo_ret_train.json", PUBLISHED)]
    for file in (*files, as_sqlite(tmp_path / "didemo.sqlite.db")):
        rows = rows_of("didemo-train", file)
        assert [(row["video"], row["caption"]) for row in rows] == PARAGRAPHS
        assert all(set(row) == {"video", "caption"} for row in rows)


def test_a_list_of_descriptions_in_a_cell_of_sqlite_is_a_list(tmp_path: Path) -> None:
    file = caption_files.as_sqlite(tmp_path / "didemo.db", [{"filename": "a.mov", "caption": ["one", "two"]}])
    assert rows_of("didemo-val", file) == [{"video": "a.mov", "caption": "one two"}]


def test_a_path_of_windows_is_a_path(tmp_path: Path) -> None:
    file = as_json(tmp_path / "rows.json", [{"video": r"c:\videos\a.mov", "caption": "one"}])
    assert rows_of("didemo-val", file) == [{"video": "a.mov", "caption": "one"}]


def test_descriptions_of_a_video_are_not_taken_twice(tmp_path: Path) -> None:
    """In two forms its paragraph would be twice as long."""
    files = [as_json(tmp_path / "val_data.json", OFFICIAL), as_json(tmp_path / "didemo_ret_val.json", PUBLISHED)]
    with pytest.raises(DataError, match=r"val_data.json and .*didemo_ret_val.json both have texts of 10015567"):
        list(protocol("didemo-val").read(files))
    with pytest.raises(DataError, match="is given twice"):
        list(protocol("didemo-val").read(files[:1] * 2))


def test_what_nobody_reads_of_a_file_is_said_once(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base", (2,), key=KEYS.__getitem__)
    file = as_json(tmp_path / "train_data.json", OFFICIAL)
    said = read_items(base, annotations=[file], protocol=protocol("didemo-train")).text()
    assert "fields num_segments, times, annotation_id of train_data.json are not used" in said


def test_parts_of_a_video_that_a_file_names_have_paragraphs_of_their_own(tmp_path: Path) -> None:
    rows = [{"video": "a.mp4", "caption": ["x", "y"], "start": start, "end": start + 5} for start in (0, 5)]
    file = as_json(tmp_path / "rows.json", rows)
    assert rows_of("didemo-val", file) == [{**row, "caption": "x y"} for row in rows]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"description": "a"}, "rows.json entry 1 names no video"),
        ({"video": True, "description": "a"}, r"rows.json entry 1 names no video: but \[True\]"),
        ({"video": "a.mp4"}, "rows.json entry 1 has no description or caption: its fields are video"),
        ({"video": "a.mp4", "caption": [1]}, r"rows.json entry 1 should have a text or a list of texts, and has \[1\]"),
    ],
)
def test_a_file_of_another_form_is_one_error(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    file = as_json(tmp_path / "rows.json", [row])
    with pytest.raises(DataError, match=said):
        list(protocol("didemo-test").read([file]))


def test_a_video_of_which_nothing_is_said_is_left_out_and_counted(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base", (2,), key=KEYS.__getitem__)
    file = as_json(tmp_path / "test_data.json", [*OFFICIAL[:2], {"video": "silent.mp4", "caption": [" ", ""]}])
    read = read_items(base, annotations=[file], protocol=protocol("didemo-test"))
    assert [(one.source, one.reason) for one in read.left_out] == [
        ("test_data.json entry 3", "the files say nothing of it")
    ]


def test_a_user_tests_on_paragraphs_and_on_the_frames_of_the_first_30_s(tmp_path: Path, umt: Umt) -> None:
    for name, frames in {NAMES[0]: 40, f"{NAMES[1]}mp4": 12}.items():  # a second each
        write_video(tmp_path / "v" / name, frames=frames, fps=1)
    file = as_json(tmp_path / "test_data.json", [*OFFICIAL, {"video": "gone.mov", "description": "nobody"}])
    folder = ("folder", tmp_path / "v", tmp_path / "set", "--first-seconds", "30", "--views", "retrieval:12")
    assert umt(*folder, "--short-side", "32", "--workers", "1").code == 0
    said = umt("items", tmp_path / "set", tmp_path / "t", "--annotations", file, "--protocol", "didemo-test")
    assert "1 videos are MISSING in the set, so a score is of the others: gone.mov" in said.text
    assert "BEYOND" not in said.text
    request = ClipRequest(published_frames(Views("retrieval", 12)), side=32, view="stretched", caption_field="caption")
    (batch,) = EvaluationSet(tmp_path / "t", request, batch_size=4).batches()
    assert {item.key: item.captions for item in batch.items} == {
        KEYS[0]: ("a cat jumps. it leaves",),
        KEYS[1]: ("dog runs",),
    }
    frames_of = dict(zip((item.key for item in batch.items), batch.pixels.numpy(), strict=True))
    shown_of_long = [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28]  # the middles of linspace(0, 30, 13)
    assert [frame_number(pixels) for pixels in frames_of[KEYS[0]]] == shown_of_long
    assert [frame_number(pixels) for pixels in frames_of[KEYS[1]]] == list(range(12))


def timed(number: int) -> dict[str, bytes]:
    """Six frames of a video of 20 or 70 seconds."""
    record = {"duration_s": (20.0, 70.0)[number], "times_s": [2.0 * index for index in range(6)]}
    frames = {f"{index:03d}.png": picture(frame(number, index)) for index in range(6)}
    return {"json": json.dumps(record).encode(), **frames}


def test_a_video_that_is_stored_beyond_30_s_is_said_and_kept(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base", (2,), members=timed, key=KEYS.__getitem__)
    file = as_json(tmp_path / "test_data.json", OFFICIAL)
    read = read_items(base, annotations=[file], protocol=protocol("didemo-test"))
    assert "1 videos are stored BEYOND the first 30 s" in read.text()
    assert NAMES[1] in read.text()
    write_table(read, tmp_path / "table")
    told = load_manifest(tmp_path / "table")
    assert told.options["protocol"]["num_too_long"] == 1
    assert published_split(told)["published"]["captions"] == "paragraph", "which a score says of itself"
    parts = as_json(tmp_path / "parts.json", [{"video": NAMES[1], "caption": "dog runs", "end": 4}])
    cut = read_items(base, annotations=[parts], protocol=protocol("didemo-test"))
    assert [item.frames for item in cut.items] == [(0, 2)]
    assert "BEYOND" not in cut.text()


def test_the_official_validation_file_is_that_of_the_paper(shared: Path) -> None:
    annotations = shared / "data" / "annotations"
    rows = rows_of("didemo-val", annotations / "didemo" / "val_data.json")
    assert len(rows) == PROTOCOLS["didemo-val"].expected[0].videos == 1094
    assert rows[0]["caption"].startswith("the man in the hat briefly bends over the machine the man is waving his arm")
    listed = (annotations / "splits" / "didemo_val_list.txt").read_text().split()
    assert len(listed) == PROTOCOLS["didemo-val"].expected[1].videos
    assert set(listed) <= {row["video"] for row in rows}
