"""Spans of long videos become clips: each row one, with the frames of its seconds, also where the video is short."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.checking.samples import samples_of
from data_prep.clip import RunOptions, StoreOptions
from data_prep.making.prepare import prepare
from data_prep.sources.spans import list_spans
from data_prep.state.clips_file import Partition, PlannedClips, write_clips
from tests.support.files import touch, written
from tests.support.videos import write_video
from umt_ds.errors import DataError


def test_a_span_holds_the_frames_that_begin_in_it_even_of_a_file_that_is_hardly_longer(tmp_path: Path) -> None:
    write_video(tmp_path / "v" / "a.mp4", frames=30, fps=10)
    rows = written(tmp_path / "s.csv", "file,start,end,caption\na.mp4,0,1.5,first\na.mp4,1.5,2.9,second\n")
    listing = list_spans(tmp_path / "v", spans=rows).first_in_order()
    prepare(listing, tmp_path / "set", name="s", store=StoreOptions(64, 48), run=RunOptions(workers=1))
    records = [sample.record() for sample in samples_of(tmp_path / "set" / "s-000000.tar")]
    found = {str(record["caption"]): record for record in records}
    assert found["first"]["source_frames"] == list(range(15))
    assert found["second"]["source_frames"] == list(range(15, 29))
    assert found["second"]["key"] == "a_00001500_00002900"
    assert (found["second"]["time_start"], found["second"]["time_end"], found["second"]["source"]) == (
        1.5,
        2.9,
        "a.mp4",
    )


def test_rows_of_one_span_are_joined_and_what_has_no_file_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path / "v", "a.mp4", "b.mp4")
    lines = ("a,0,2,one,x", "a.mp4,0.0,2,two,", "gone.mp4,0,1,three,x", "a,2,4,,y")
    listing = list_spans(
        tmp_path / "v", spans=written(tmp_path / "s.csv", "file,start,end,caption,label\n" + "\n".join(lines))
    )
    assert [(clip.span_s, clip.captions, clip.label_name) for clip in listing.clips] == [
        ((0, 2), ("one", "two"), "x"),
        ((2, 4), (), "y"),
    ]
    assert [(refusal.source, refusal.reason) for refusal in listing.left_out] == [
        ("gone.mp4", "missing: no such video (line 4)")
    ]
    assert "2 spans of 1 videos" in listing.notes


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.mp4,2,2", "line 2: a span from 2 to 2 s holds nothing"),
        ("a.mp4,0:30,40", "line 2: '0:30' is no time"),
        ("a.mp4,-1,4", "line 2: '-1' is no time"),
        ("a.mp4,0,1e9", "line 2: '1e9' is no time"),
        ("b.mp4,0,1", "none of the 1 rows of"),
    ],
)
def test_a_row_without_a_span_is_refused_with_its_line(row: str, message: str, tmp_path: Path) -> None:
    touch(tmp_path / "v", "a.mp4")
    with pytest.raises(DataError, match=message):
        list_spans(tmp_path / "v", spans=written(tmp_path / "s.csv", f"file,start,end\n{row}\n"))


def test_a_plan_remembers_that_a_span_is_of_the_whole_file_and_other_clips_keep_their_line(tmp_path: Path) -> None:
    touch(tmp_path / "v", "a.mp4")
    listing = list_spans(tmp_path / "v", spans=written(tmp_path / "s.csv", "file,start,end\na,0,1\n"))
    write_clips(tmp_path, listing.clips, 4)
    assert PlannedClips(tmp_path, Partition((1,), 4)).of_shard(0) == listing.clips
    line = json.loads((tmp_path / "clips.jsonl").read_text())
    assert (len(line), line[-1]) == (8, True)
