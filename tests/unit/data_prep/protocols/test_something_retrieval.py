"""Something-Something V2 as retrieval: a text has several videos, which share a group."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.making.item_table import read_items, write_table
from data_prep.protocols.known import protocol
from tests.support.annotations import SSV2_ROWS, SSV2_TEST_ROWS
from tests.support.caption_files import as_sqlite, reasons, rows
from tests.support.loading import Tokenizing
from tests.support.shards import write_shards
from umt_ds.batch import Tokens
from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec
from umt_ds.data.order.frames import FramePolicy
from umt_ds.errors import DataError

SPINNING = "Spinning [something] that quickly stops spinning"
FALLING = "[Something] falling like a feather or paper"
OFFICIAL: list[dict[str, Any]] = [
    {"id": "62211", "label": "spinning soap", "template": SPINNING, "placeholders": ["soap"]},
    {"id": "63095", "label": "spinning a key", "template": SPINNING, "placeholders": ["a key"]},
    {"id": "36585", "label": "plastic falling", "template": FALLING, "placeholders": ["plastic"]},
    {"id": "9741", "label": "plastic falling", "template": FALLING, "placeholders": ["plastic"]},
]
LABELS = [
    {"video": "62211.webm", "caption": "spinning soap"},
    {"video": ["63095.webm"], "caption": "spinning a key"},
    {"video": ["36585.webm", "9741.webm"], "caption": "plastic falling"},
]
TEMPLATES = [
    {"video": ["62211.webm", "63095.webm"], "caption": SPINNING},
    {"video": ["36585.webm", "9741.webm"], "caption": FALLING},
]


def rows_of(path: Path, name: str, content: object) -> list[dict[str, Any]]:
    path.write_text(json.dumps(content))
    return [said[1] for said in protocol(name).read([path]) if isinstance(said, tuple)]


@pytest.mark.parametrize(("text", "published"), [("label", LABELS), ("template", TEMPLATES)])
def test_both_published_forms_give_the_same_rows_in_the_same_order(tmp_path: Path, text: str, published: Any) -> None:
    official = rows_of(tmp_path / "train.json", f"ssv2-{text}-train", OFFICIAL)
    assert official == [{"video": f"{row['id']}.webm", "caption": row[text], "group": row[text]} for row in OFFICIAL]
    assert rows_of(tmp_path / "ssv2_ret.json", f"ssv2-{text}-test", published) == official


def test_a_list_of_videos_in_a_cell_of_sqlite_is_a_list(tmp_path: Path) -> None:
    file = as_sqlite(tmp_path / "ssv2.db", TEMPLATES)
    assert len(rows("ssv2-template-test", file)) == 4


def test_a_video_that_stands_twice_with_its_text_is_counted_once(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps([*OFFICIAL, OFFICIAL[0]]))
    assert len(rows("ssv2-label-train", tmp_path / "train.json")) == 4
    assert reasons("ssv2-label-train", tmp_path / "train.json") == {"the video and its caption stand before it, too": 1}


def test_a_text_of_several_videos_is_one_text_of_the_protocol(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base", (4,), key=lambda number: str(OFFICIAL[number]["id"]))
    (tmp_path / "val.json").write_text(json.dumps(TEMPLATES))
    said = read_items(base, annotations=[tmp_path / "val.json"], protocol=protocol("ssv2-template-test")).text()
    assert "ssv2-template-test: 4 videos and 2 texts in the files" in said
    assert "which have 2,088 videos and 174 texts" in said


def test_a_video_without_a_text_is_left_out_and_counted(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base", (4,), key=lambda number: str(OFFICIAL[number]["id"]))
    (tmp_path / "val.json").write_text(json.dumps([*LABELS, {"video": "5.webm", "caption": " "}]))
    read = read_items(base, annotations=[tmp_path / "val.json"], protocol=protocol("ssv2-label-test"))
    assert [(one.source, one.reason) for one in read.left_out] == [("val.json entry 4", "a caption without text")]


def test_videos_of_one_text_count_as_the_same_in_a_batch_and_a_missing_one_is_said(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base", (3,), key=lambda number: str(OFFICIAL[number]["id"]))
    (tmp_path / "train.json").write_text(json.dumps(OFFICIAL))
    read = read_items(base, annotations=[tmp_path / "train.json"], protocol=protocol("ssv2-template-train"))
    assert "1 videos are MISSING in the set, so a score is of the others: 9741.webm" in read.text()
    write_table(read, tmp_path / "table")
    asked: list[str] = []

    def tokens(captions: list[str]) -> Tokens:
        asked.extend(captions)
        return Tokens(torch.zeros(len(captions), 1, dtype=torch.long), torch.ones(len(captions), 1, dtype=torch.bool))

    plan = LoaderPlan(seed=1, global_draws=3, image_side=16, micro=3)
    source = SourceSpec("ssv2", tmp_path / "table", FramePolicy("sparse", 2))
    (batch,) = Loader([source], plan, tokenize=Tokenizing(tokens)).micro_batches(0)
    assert batch.ids is not None
    ids = dict(zip(batch.keys, batch.ids.tolist(), strict=True))
    assert ids["62211"] == ids["63095"] != ids["36585"]
    assert sorted(asked) == [SPINNING, SPINNING, FALLING]


def test_rows_as_the_publisher_has_them_are_read(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "train.json", "ssv2-label-train", json.loads(SSV2_ROWS))
    assert rows[1] == {
        "video": "116154.webm",
        "caption": "showing clay box on top of wallet",
        "group": "showing clay box on top of wallet",
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.loads(SSV2_TEST_ROWS), "entry 1 has no caption or template: its fields are id"),
        ([{"caption": "a"}], "entry 1 names no video: its fields are caption"),
        ([{"caption": "a", "video": []}], "entry 1 names no video: its fields are caption, video"),
        ([{"caption": "a", "video": [3.5]}], r"entry 1 names no video: but \[3\.5\]"),
        ([{"caption": ["a", "b"], "video": "3.webm"}], r"entry 1 should have one text, and has \['a', 'b'\]"),
    ],
)
def test_a_file_of_another_form_is_one_error(tmp_path: Path, content: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        rows_of(tmp_path / "rows.json", "ssv2-template-test", content)
