"""`umt-data items --protocol NAME`: what its files have, what papers had, and what the set lacks is said and kept."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest

from data_prep.checking import stats
from data_prep.clip import Refusal
from data_prep.making.item_table import read_items, write_table
from data_prep.protocols import known
from data_prep.protocols.protocol import Counts, Protocol, Task
from data_prep.tables.annotations import read_annotations
from tests.support.shards import write_shards
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.errors import ConfigError, DataError

ROWS = [{"video": f"clip-{number:04d}.mp4", "caption": ["a", "b"]} for number in (3, 12, 77)]


def of(*expected: Counts, task: Task = "retrieval") -> Protocol:
    return Protocol("p", task, "", lambda files: chain.from_iterable(map(read_annotations, files)), expected)


def test_a_gallery_says_what_it_lacks_and_its_manifest_keeps_it(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base")
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    read = read_items(base, annotations=[tmp_path / "rows.json"], protocol=of(Counts(3, 6)))
    assert "p: 3 videos and 6 texts in the files\n1 videos are MISSING" in read.text()
    assert "clip-0077.mp4" in read.text()
    write_table(read, tmp_path / "table")
    assert load_manifest(tmp_path / "table").options["protocol"] == {
        "name": "p",
        "task": "retrieval",
        "videos": 3,
        "texts": 6,
        "as_published": True,
        "missing": ["clip-0077.mp4"],
        "num_missing": 1,
    }


@pytest.mark.parametrize(
    ("expected", "as_published"),
    [
        ((), True),
        ((Counts(3),), True),
        ((Counts(3, 5),), False),
        ((Counts(4), Counts(3, 6)), True),
        ((Counts(None, 6),), True),
        ((Counts(None, 5),), False),
    ],
)
def test_files_of_other_counts_are_not_those_of_the_protocol(
    tmp_path: Path, expected: tuple[Counts, ...], as_published: bool
) -> None:
    base = write_shards(tmp_path / "base")
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    text = read_items(base, annotations=[tmp_path / "rows.json"], protocol=of(*expected)).text()
    assert ("these are NOT the files of the protocol" in text) != as_published


def test_a_protocol_that_nobody_knows_is_answered_with_those_alike() -> None:
    with pytest.raises(ConfigError, match=r"--protocol msrvtt-1k: there is no protocol") as caught:
        known.protocol("msrvtt-1k")
    assert "perhaps msrvtt-1ka" in str(caught.value.hint)


def test_names_are_listed_once_with_their_counts() -> None:
    assert len(known.PROTOCOLS) == sum(len(module.PROTOCOLS) for module in known.MODULES)
    line = next(line for line in known.table().splitlines() if line.startswith("msrvtt-1ka "))
    assert line.split()[:4] == ["msrvtt-1ka", "retrieval", "1,000", "1,000"]


def test_what_of_the_files_is_no_row_is_counted_with_its_reason(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base")
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    others = [Refusal(f"rows.json entry {number}", "a caption of another split") for number in (4, 5)]
    told = Protocol("p", "retrieval", "", lambda files: chain(others, *map(read_annotations, files)))
    read = read_items(base, annotations=[tmp_path / "rows.json"], protocol=told)
    assert "2 items over 2 clips" in read.text()
    assert "2  a caption of another split" in read.text()
    assert "p: 3 videos and 6 texts in the files" in read.text()
    write_table(read, tmp_path / "table")
    assert "rows.json entry 5,,a caption of another split" in (tmp_path / "table" / "bad.csv").read_text()


def test_statistics_of_a_table_say_what_its_protocol_lacks(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base")
    asked = [{"video": row["video"], "question": "who?"} for row in ROWS]
    (tmp_path / "rows.json").write_text(json.dumps(asked))
    told = of(Counts(9), task="question answering")
    write_table(read_items(base, annotations=[tmp_path / "rows.json"], protocol=told), tmp_path / "table")
    lines = stats.table(stats.collect_stats(tmp_path / "table")).splitlines()
    assert "protocol p: 3 videos and 3 texts in its files, which are NOT those of the protocol" in lines
    assert "of these videos 1 are MISSING in the set: clip-0077.mp4" in lines
    assert "3 of its questions have NO ANSWER" in lines


def test_a_video_of_which_no_item_was_made_is_missing(tmp_path: Path) -> None:
    """The set has its clip, which does not say when its frames are."""
    base = write_shards(tmp_path / "base")
    (tmp_path / "rows.json").write_text(json.dumps([*ROWS[:1], {**ROWS[1], "start": 3}, {"caption": "of no video"}]))
    read = read_items(base, annotations=[tmp_path / "rows.json"], protocol=of())
    assert read.coverage is not None
    assert read.coverage.videos == {"clip-0003.mp4": True, "clip-0012.mp4": False}


def test_a_set_of_another_corpus_is_told_by_a_video_of_the_split(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base")
    rows = [("rows.json entry 2", {"video": "video7", "caption": "a"})]
    others = [Refusal("rows.json entry 1", "a caption of another split")]
    told = Protocol("p", "retrieval", "", lambda files: chain(others, rows))
    with pytest.raises(DataError, match=r"has a clip in .*: video7: no clip of the set has this name"):
        read_items(base, annotations=[tmp_path / "rows.json"], protocol=told)
