"""`umt-data items`: an annotation file becomes a table over the frames of a set, and training and testing read it."""

from __future__ import annotations

import csv
import json
import math
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from data_prep.cli import umt_data as command
from data_prep.tables.annotations import read_annotations
from tests.support.shards import frame as one_colour
from tests.support.shards import picture, write_shards
from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.source import ShardSource
from umt_ds.errors import ConfigError, DataError

ROWS: list[dict[str, Any]] = [
    {"video": "clip-0003.mp4", "label": 7, "caption": ["a", "b"]},
    {"video": "some/where/clip-0012.avi", "label": 8},
    {"key": "clip-0003", "label": 9},
    {"video": "nowhere.mp4", "label": 1},
    {"label": 1},
]


def umt_data(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def items(folder: Path, rows: list[dict[str, Any]], *options: str) -> tuple[Path, str]:
    """A table of these rows over a set of 15 samples, and what the command says."""
    write_shards(folder / "base")
    (folder / "rows.json").write_text(json.dumps(rows))
    out = folder / "table"
    return out, umt_data("items", folder / "base", out, "--annotations", folder / "rows.json", *options).output


def labels(out: Path) -> list[tuple[str, int]]:
    """Key and label of each item, as evaluation sees them."""
    request = ClipRequest(middle_frames(2), side=16, label_fields=("label",))
    batches = EvaluationSet(out, request, batch_size=4).batches()
    return [(item.key, item.labels[0]) for batch in batches for item in batch.items]


def test_rows_become_items_and_what_does_not_is_counted(tmp_path: Path) -> None:
    out, said = items(tmp_path, ROWS)
    assert "3 items over 2 clips, with label, caption; 13 clips have none; 2 rows left out" in said
    bad = list(csv.reader((out / "bad.csv").open()))
    assert bad[1:] == [
        ["nowhere.mp4", "", "no clip of the set has this name"],
        ["rows.json entry 5", "", "names no clip"],
    ]
    assert labels(out) == [("clip-0003", 7), ("clip-0003#1", 9), ("clip-0012", 8)]
    assert not list(out.glob("*.tar"))
    assert load_manifest(out).num_samples == 3


def test_training_draws_items_with_what_they_say(tmp_path: Path) -> None:
    out, _ = items(tmp_path, ROWS)
    plan = LoaderPlan(seed=1, global_draws=3, image_side=16, micro=3)
    loader = Loader([SourceSpec("tiny", out, FramePolicy("sparse", 2, 4))], plan, label_field="label")
    for step in range(4):
        (batch,) = loader.micro_batches(step)
        assert batch.targets.labels is not None
        assert batch.ids is not None
        colours = batch.pixels[:, 0, 0, 0, 0].tolist()
        shown = dict(zip(batch.keys, zip(batch.targets.labels.tolist(), colours, strict=True), strict=True))
        assert shown == {"clip-0003": (7, 3), "clip-0003#1": (9, 3), "clip-0012": (8, 12)}
        same = dict(zip(batch.keys, batch.ids.tolist(), strict=True))
        assert same["clip-0003"] == same["clip-0003#1"] != same["clip-0012"]


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl", "sqlite.db"])
def test_annotations_of_any_form_give_the_same_items(tmp_path: Path, form: str) -> None:
    rows = [
        {"video": f"clip-{number:04d}.mp4", "label": number + 20, "caption": f"number {number}"} for number in (1, 9)
    ]
    file = tmp_path / f"rows.{form}"
    match form:
        case "csv":
            file.write_text(
                "video,label,caption\n" + "".join(f"{r['video']},{r['label']},{r['caption']}\n" for r in rows)
            )
        case "parquet":
            parquet.write_table(pa.Table.from_pylist(rows), file)
        case "sqlite.db":
            with closing(sqlite3.connect(file)) as database, database:
                database.execute("CREATE TABLE annos (id INTEGER, filename TEXT, label INTEGER, caption TEXT)")
                database.executemany("INSERT INTO annos VALUES (0, ?, ?, ?)", [tuple(row.values()) for row in rows])
        case _:
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = write_shards(tmp_path / "base")
    umt_data("items", base, tmp_path / "table", "--annotations", file)
    assert labels(tmp_path / "table") == [("clip-0001", 21), ("clip-0009", 29)]
    source = ShardSource(tmp_path / "table")
    assert [source.question(ref).fields["caption"] for ref in source.refs()] == ["number 1", "number 9"]


def test_a_list_can_be_an_item_each(tmp_path: Path) -> None:
    out, _ = items(tmp_path, [{"key": "clip-0002", "caption": ["x", "y", "z"]}], "--explode", "caption")
    source = ShardSource(out)
    found = {source.key(ref): source.question(ref).fields["caption"] for ref in source.refs()}
    assert found == {"clip-0002": "x", "clip-0002#1": "y", "clip-0002#2": "z"}


def timed(number: int) -> dict[str, bytes]:
    """Six frames at 0, 2, … 10 s."""
    record = {"label": number, "times_s": [2.0 * frame for frame in range(6)]}
    frames = {f"{index:03d}.png": picture(one_colour(number, index)) for index in range(6)}
    return {"json": json.dumps(record).encode(), **frames}


def test_seconds_are_a_part_of_the_stored_frames(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base", (2,), members=timed)
    rows = [
        {"key": "clip-0000", "start": 3.0, "end": 8.5},
        {"key": "clip-0000", "start": 4.5, "end": 5},
        {"key": "clip-0001", "end": "3"},
        {"key": "clip-0001", "start": 60},
        {"key": "clip-0001", "start": "soon"},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    said = umt_data("items", base, tmp_path / "table", "--annotations", tmp_path / "rows.json").output
    source = ShardSource(tmp_path / "table")
    assert [source.question(ref).frames for ref in source.refs()] == [(2, 4), (2, 2), (0, 1)]
    assert "no stored frame lies between 60 and inf s" in said
    assert "'soon' is no number of seconds" in said


def test_seconds_that_are_none_or_before_a_clip_that_begins_late_are_left_out(tmp_path: Path) -> None:
    """A span of a film has the seconds of the film: 100 to 110."""

    def late(number: int) -> dict[str, bytes]:
        return timed(number) | {"json": json.dumps({"times_s": [100.0 + 2 * n for n in range(6)]}).encode()}

    base = write_shards(tmp_path / "base", (1,), members=late)
    spans = [(99, 99.5), (0, 10), (math.nan, 103), (101, math.nan), (104, 106)]
    rows = [{"key": "clip-0000", "label": 1, "start": start, "end": end} for start, end in spans]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    said = umt_data("items", base, tmp_path / "table", "--annotations", tmp_path / "rows.json").output
    source = ShardSource(tmp_path / "table")
    assert [source.question(ref).frames for ref in source.refs()] == [(0, 0), (2, 3)]
    assert "1  no stored frame lies between 0 and 10 s" in said
    assert "2  nan is no number of seconds" in said


def test_a_clip_is_found_by_its_name_alone_and_keeps_its_own_key(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base", (4,), key=lambda number: f"{'ab'[number // 2]}/v{number % 2 * number}")
    rows = [{"video": "v1.mp4", "label": 5}, {"video": "a/v1.mp4", "label": 6}, {"video": "v0.mp4", "label": 7}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    said = umt_data("items", base, tmp_path / "table", "--annotations", tmp_path / "rows.json").output
    assert labels(tmp_path / "table") == [("a/v1", 5), ("a/v1#1", 6)]
    assert "1  no clip of the set has this name" in said, "a/v0 and b/v0 are two"


def test_a_clip_is_found_by_a_path_of_windows_and_without_a_second_suffix(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base", (2,), key=lambda number: ("a/dog", "cat%2Emov")[number])
    rows = [{"video": r"c:\videos\dog.mp4", "label": 5}, {"video": "cat", "label": 6}, {"video": "cat.mov", "label": 7}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    umt_data("items", base, tmp_path / "table", "--annotations", tmp_path / "rows.json")
    assert labels(tmp_path / "table") == [("a/dog", 5), ("cat%2Emov", 6), ("cat%2Emov#1", 7)]


def test_a_second_name_of_a_clip_is_no_column_and_is_said(tmp_path: Path) -> None:
    _, said = items(tmp_path, [{"video": "clip-0003.mp4", "video_id": "abc", "caption": "a"}])
    assert "1 items over 1 clips, with caption;" in said
    assert "not used, as another field names the clip: video_id" in said


def test_labels_by_name_become_numbers_of_the_class_list(tmp_path: Path) -> None:
    rows = [{"key": "clip-0001", "label": "dive"}, {"key": "clip-0002", "label": "0"}]
    (tmp_path / "classes.txt").write_text("walk\ndive\n")
    out, _ = items(tmp_path, rows, "--classes", str(tmp_path / "classes.txt"))
    assert labels(out) == [("clip-0001", 1), ("clip-0002", 0)]
    assert load_manifest(out).labels == ("walk", "dive")
    (tmp_path / "again").mkdir()
    with pytest.raises(DataError, match=r"rows\.json entry 1: the label 'dive' is no class: the set names no classes"):
        items(tmp_path / "again", rows)


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        (
            [{"key": "clip-0001", "caption": ["a"]}],
            ("--explode", "captoin"),
            "--explode captoin: no row of .* has this field",
        ),
        ([{"key": "clip-0001", "caption": "a"}], ("--classes", "classes.txt"), "the row of clip-0001 has no label"),
        (
            [{"key": "clip-0001", "label": 2}],
            ("--classes", "classes.txt"),
            "the label 2 is no class: its classes are walk, dive",
        ),
        ([{"key": "clip-0001", "label": 1.5}], (), "the label 1.5 is no class"),
    ],
)
def test_what_would_have_no_effect_or_another_meaning_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], options: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("classes.txt").write_text("walk\ndive\n")
    with pytest.raises((ConfigError, DataError), match=said):
        items(tmp_path, rows, *options)
    assert not (tmp_path / "table").exists()


def test_no_row_with_a_clip_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no row of .*rows\.json has a clip in .*base: x\.mp4: no clip of the set"):
        items(tmp_path, [{"video": "x.mp4", "label": 1}])
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.json", "{}", "is no list of objects"),
        ("rows.json", "[3]", "entry 1 is no object but 3"),
        ("rows.txt", "a b", "is of no form that is known"),
        ("rows.parquet", "x", "no parquet file"),
        ("rows.csv", "", "cannot be read"),
        ("rows.csv", 'key,caption\na,"one\nb,two\n', "a quote is not closed, in the row that begins on line 2"),
        ("rows.csv", "key,caption,caption\na,one,two\n", "names the column caption twice"),
        ("rows.csv", "key,caption\na,one\nkey,caption\nb,two\n", "repeats its header on line 3"),
        ("rows.json.gz", "", "is compressed"),
        ("rows.db", "SQLite format 3\0 and no more", "cannot be read as an SQLite database"),
    ],
)
def test_a_file_that_is_none_is_one_error(tmp_path: Path, name: str, content: str, said: str) -> None:
    base = write_shards(tmp_path / "base")
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        umt_data("items", base, tmp_path / "table", "--annotations", tmp_path / name)


@pytest.mark.parametrize(
    "content", ["\ufeffkey,label,caption\r\nclip-0001,07,012\r\n", "key; label; caption\n\nclip-0001;7;012\n"]
)
def test_a_csv_file_of_excel_is_read_and_names_stay_text(tmp_path: Path, content: str) -> None:
    (tmp_path / "rows.csv").write_text(content, newline="")
    assert [row for _, row in read_annotations(tmp_path / "rows.csv")] == [
        {"key": "clip-0001", "label": 7, "caption": "012"}
    ]


def test_a_database_of_which_rows_are_in_a_journal_is_not_whole(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base")
    with closing(sqlite3.connect(tmp_path / "rows.db")) as database, database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE annos (filename TEXT, label INTEGER)")
        database.execute("INSERT INTO annos VALUES ('clip-0001.mp4', 3)")
        database.commit()
        with pytest.raises(DataError, match=r"rows\.db is not whole: .* rows of it are in rows\.db-wal"):
            umt_data("items", base, tmp_path / "table", "--annotations", tmp_path / "rows.db")
    umt_data("items", base, tmp_path / "table", "--annotations", tmp_path / "rows.db")
    assert labels(tmp_path / "table") == [("clip-0001", 3)]


def test_a_table_moves_with_its_set_and_is_missed_without(tmp_path: Path, impatient: list[float]) -> None:
    out, _ = items(tmp_path / "here", ROWS)
    (tmp_path / "here").rename(tmp_path / "there")
    assert len(ShardSource(tmp_path / "there" / "table")) == 3
    (tmp_path / "there" / "table").rename(tmp_path / "alone")
    with pytest.raises(DataError, match=r"alone is a table over .*/base, and no set of shards is there"):
        ShardSource(tmp_path / "alone")
    assert out.name == "table"


def test_half_a_character_of_a_name_or_text_is_a_question_mark(tmp_path: Path) -> None:
    rows = [{"key": "clip-0001", "caption": ["cut \ud83d", "whole"]}, {"video": "\ud83d.mp4", "caption": ["x"]}]
    out, said = items(tmp_path, rows)
    assert "1 rows left out" in said
    source = ShardSource(out)
    assert [source.question(ref).fields["caption"] for ref in source.refs()] == [["cut ?", "whole"]]
