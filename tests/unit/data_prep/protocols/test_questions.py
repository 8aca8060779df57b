"""Questions of ActivityNet-QA, MSRVTT-QA and MSVD-QA: all published forms give the same items, what does not fit
together is counted, and the items arrive where training and testing read."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from data_prep.making.item_table import read_items, write_table
from data_prep.protocols.known import protocol
from tests.support.shards import write_shards
from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.data.clips import read_clip
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.shards.source import ShardSource
from umt_ds.errors import DataError

Entry = dict[str, Any]
ONE, TWO = "1QIUV7WYKXg", "v_niCub7u60"  # YouTube's ids, of which one begins as files do


def as_json(path: Path, entries: Sequence[object]) -> Path:
    path.write_text(json.dumps(entries))
    return path


def as_csv(path: Path, entries: Sequence[Entry]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(entries[0]))
        writer.writeheader()
        writer.writerows(entries)
    return path


def as_sqlite(path: Path, entries: Sequence[Entry]) -> Path:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"CREATE TABLE annos (id INTEGER PRIMARY KEY, {', '.join(entries[0])})")
        values = [tuple(entry.values()) for entry in entries]
        database.executemany(f"INSERT INTO annos VALUES (NULL, {', '.join('?' * len(entries[0]))})", values)
    return path


def clips(folder: Path, *names: str) -> Path:
    return write_shards(folder, (len(names),), key=lambda number: names[number])


def items(base: Path, name: str, *files: Path) -> list[tuple[str | None, Entry]]:
    """Key and fields of each item of a protocol."""
    return [
        (item.key, dict(item.fields)) for item in read_items(base, annotations=files, protocol=protocol(name)).items
    ]


ACTIVITYNET_Q = [
    {"video_name": ONE, "question": "is the athlete wearing trousers", "question_id": f"v_{ONE}_3"},
    {"video_name": TWO, "question": "what color is the hair", "question_id": f"v_{TWO}_2"},
    {"video_name": ONE, "question": "how many people run", "question_id": f"v_{ONE}_1"},
]
ACTIVITYNET_A = [
    {"answer": "2", "type": 7, "question_id": f"v_{ONE}_1"},
    {"answer": "no", "type": 3, "question_id": f"v_{ONE}_3"},
    {"answer": "dark brown", "type": 4, "question_id": f"v_{TWO}_2"},
]


def activitynet_items(*, question_id: bool = True, question_type: bool = True) -> list[tuple[str, Entry]]:
    answers = [(ONE, "", 3, "no", "yes/no"), (ONE, "#1", 1, "2", "number"), (TWO, "", 2, "dark brown", "color")]
    asked = {entry["question_id"]: entry["question"] for entry in ACTIVITYNET_Q}
    return [
        (
            f"v_{video}{nth}",
            {
                "question": asked[f"v_{video}_{number}"],
                **({"question_id": f"v_{video}_{number}"} if question_id else {}),
                "answers": [answer],
                "answer_weights": [1.0],
                **({"question_type": kind} if question_type else {}),
            },
        )
        for video, nth, number, answer, kind in answers
    ]


def test_each_form_of_activitynet_qa_gives_the_same_items(tmp_path: Path) -> None:
    base = clips(tmp_path / "base", f"v_{ONE}", f"v_{TWO}")
    apart = as_json(tmp_path / "q.json", ACTIVITYNET_Q), as_json(tmp_path / "a.json", ACTIVITYNET_A)
    by_id = {entry["question_id"]: entry for entry in ACTIVITYNET_A}
    joined = [{**entry, **by_id[entry["question_id"]]} for entry in ACTIVITYNET_Q]
    umt = [
        {"video": f"v_{one['video_name']}.mp4", **{n: one[n] for n in ("question", "question_id", "answer")}}
        for one in joined
    ]
    just_ask = [
        {"question": one["question"], "answer": one["answer"], "video_id": one["video_name"], "type": one["type"]}
        for one in joined
    ]

    def read(*files: Path) -> list[tuple[str | None, Entry]]:
        return sorted(items(base, "activitynet-qa-test", *files), key=lambda item: str(item[0]))

    assert read(*apart) == read(*reversed(apart)) == activitynet_items()
    assert read(as_json(tmp_path / "umt.json", umt)) == activitynet_items(question_type=False)
    assert read(as_sqlite(tmp_path / "umt.sqlite.db", umt)) == activitynet_items(question_type=False)
    assert read(as_csv(tmp_path / "just_ask.csv", just_ask)) == activitynet_items(question_id=False)
    parquet.write_table(pa.Table.from_pylist(joined), tmp_path / "test.parquet")
    assert read(tmp_path / "test.parquet") == activitynet_items()


@pytest.mark.parametrize("called", ["{}", "v_{}"])
def test_files_of_activitynet_are_found_by_both_of_their_names(tmp_path: Path, called: str) -> None:
    base = clips(tmp_path / "base", called.format(ONE), called.format(TWO))
    files = as_json(tmp_path / "q.json", ACTIVITYNET_Q), as_json(tmp_path / "a.json", ACTIVITYNET_A)
    found = [key for key, _ in items(base, "activitynet-qa-test", *files)]
    assert found == [called.format(name) for name in (ONE, TWO, f"{ONE}#1")]


NUMBERED = [
    {"answer": "dog", "category_id": 3, "id": 158581, "question": "what is licking?", "video_id": 6513},
    {"answer": "man", "category_id": 3, "id": 158582, "question": "who drives?", "video_id": 6514},
]


@pytest.mark.parametrize(
    ("name", "called"), [("msrvtt-qa-val", ("video6513", "video6514")), ("msvd-qa-val", ("vid6513", "-4ws_5_15"))]
)
def test_each_form_of_numbered_videos_gives_the_same_items(tmp_path: Path, name: str, called: tuple[str, str]) -> None:
    base = clips(tmp_path / "base", *called)
    mapping = tmp_path / "youtube_mapping.txt"
    mapping.write_bytes(b"mv89psg6zh4_33_46 vid6513\r\n-4ws_5_15 vid6514\r\n")
    umt = [
        {"video": f"{video}.avi", "question": one["question"], "question_id": one["id"], "answer": one["answer"]}
        for one, video in zip(NUMBERED, called, strict=True)
    ]
    just_ask = [{**one, "type": 1} for one in NUMBERED]
    expected = [
        (
            video,
            {
                "question": one["question"],
                "question_id": str(one["id"]),
                "answers": [one["answer"]],
                "answer_weights": [1.0],
                "question_type": kind,
            },
        )
        for one, video, kind in zip(NUMBERED, called, ("what", "who"), strict=True)
    ]
    also = [mapping] if name.startswith("msvd") else []
    assert items(base, name, as_json(tmp_path / "val_qa.json", NUMBERED), *also) == expected
    assert items(base, name, as_json(tmp_path / "umt.json", umt)) == expected
    assert items(base, name, as_sqlite(tmp_path / "umt.db", umt)) == expected
    assert items(base, name, as_csv(tmp_path / "just_ask.csv", just_ask), *also) == expected


def test_a_clip_of_msvd_that_is_called_by_its_number_is_found_by_the_name_of_youtube(tmp_path: Path) -> None:
    base = clips(tmp_path / "base", "vid7")
    (tmp_path / "youtube_mapping.txt").write_text("-4ws_5_15 vid7\n")
    rows = as_json(tmp_path / "umt.json", [{"video": "-4ws_5_15.avi", "question": "who?", "answer": "man"}])
    assert [key for key, _ in items(base, "msvd-qa-test", rows, tmp_path / "youtube_mapping.txt")] == ["vid7"]


@pytest.mark.parametrize(
    ("said", "answers", "weights"),
    [
        ("yes", ["yes"], [1.0]),
        (["yes", "no", "yes", "yes"], ["yes", "no"], [0.75, 0.25]),
        (["b", "a"], ["b", "a"], [0.5, 0.5]),
        ('["yes", "no"]', ["yes", "no"], [0.5, 0.5]),  # in a column of SQLite
        ('["yes', ['["yes'], [1.0]),
    ],
)
def test_the_weight_of_an_answer_is_how_often_it_was_given(
    tmp_path: Path, said: object, answers: list[str], weights: list[float]
) -> None:
    base = clips(tmp_path / "base", "video1")
    rows = as_json(tmp_path / "qa.json", [{"video": "video1.mp4", "question": "is it?", "answer": said}])
    ((_, fields),) = items(base, "msrvtt-qa-train", rows)
    assert (fields["answers"], fields["answer_weights"]) == (answers, weights)


def test_a_question_about_a_part_of_a_video_keeps_its_seconds(tmp_path: Path) -> None:
    entry = {"video": "video1.mp4", "question": "who?", "answer": "man", "start": 1.5, "end": 4}
    (row,) = protocol("msrvtt-qa-train").read([as_json(tmp_path / "qa.json", [entry])])
    assert isinstance(row, tuple)
    assert (row[1]["start"], row[1]["end"]) == (1.5, 4)


def test_questions_and_answers_without_each_other_are_counted_and_named(tmp_path: Path) -> None:
    base = clips(tmp_path / "base", f"v_{ONE}", f"v_{TWO}")
    stray = {"answer": "yes", "type": 3, "question_id": "v_xxxxxxxxxxx_9"}
    files = as_json(tmp_path / "q.json", ACTIVITYNET_Q), as_json(tmp_path / "a.json", [*ACTIVITYNET_A[:2], stray])
    read = read_items(base, annotations=files, protocol=protocol("activitynet-qa-val"))
    assert len(read.items) == 2
    assert [(one.source, one.reason) for one in read.left_out] == [
        (f"q.json entry 2: question v_{TWO}_2", "no answer in the files is to this question"),
        ("a.json entry 3: answer to v_xxxxxxxxxxx_9", "no question in the files has this question_id"),
    ]
    assert "1  no answer in the files is to this question" in read.text()
    assert "these are NOT the files of the protocol, which have 1,800 videos and 18,000 texts" in read.text()


def test_a_test_split_without_answers_is_a_table_without_them(tmp_path: Path) -> None:
    base = clips(tmp_path / "base", f"v_{ONE}", f"v_{TWO}")
    files = [as_json(tmp_path / "q.json", ACTIVITYNET_Q)]
    read = read_items(base, annotations=files, protocol=protocol("activitynet-qa-test"))
    assert {name for item in read.items for name in item.fields} == {"question", "question_id"}
    assert len(read.items) == 3
    assert "3 questions have NO ANSWER in the files" in read.text()


ROW = {"video_id": 1, "question": "who?", "answer": "man", "id": 0}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({**ROW, "question": ["who?"]}, r"qa\.json entry 1: question is \['who\?'\], and should be a text"),
        ({**ROW, "answer": []}, "answer is an empty list"),
        ({**ROW, "answer": 2}, "answer is 2, and should be a text"),
        ({**ROW, "answer": ["a", None]}, "answer is None, and should be a text"),
        ({**ROW, "video_id": True}, r"names no video: but \[True\]"),
        ({**ROW, "id": 1.5}, r"question_id is 1\.5"),
        (
            {"video_id": 1, "caption": "a man"},
            "neither a question nor the answer to one: its fields are video_id, caption",
        ),
    ],
)
def test_what_is_no_question_is_one_error_that_says_where(tmp_path: Path, entry: Entry, said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(protocol("msrvtt-qa-val").read([as_json(tmp_path / "qa.json", [entry])]))


def test_answers_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    read = protocol("activitynet-qa-val").read
    asked, answer = as_json(tmp_path / "q.json", ACTIVITYNET_Q), as_json(tmp_path / "a.json", ACTIVITYNET_A)
    with pytest.raises(DataError, match=rf"b\.json entry 1 answers question v_{ONE}_1, and so does a\.json entry 1"):
        list(read([asked, answer, as_json(tmp_path / "b.json", ACTIVITYNET_A[:1])]))
    whole = as_json(tmp_path / "qa.json", [{**ACTIVITYNET_Q[0], "answer": "yes"}])
    with pytest.raises(DataError, match=r"qa\.json entry 1 has an answer, and a\.json entry 2 another one"):
        list(read([whole, answer]))
    with pytest.raises(DataError, match="is given twice"):
        list(read([asked, asked, answer]))
    again = as_json(tmp_path / "again.json", ACTIVITYNET_Q[:1])
    with pytest.raises(DataError, match=r"q\.json entry 1 and again\.json entry 1 have one question_id"):
        list(read([asked, again, answer]))
    unknown = as_json(tmp_path / "c.json", [{**ACTIVITYNET_A[0], "type": 9}])
    with pytest.raises(DataError, match="type is 9, and should be 0 to 8"):
        list(read([asked, unknown]))


def test_a_mapping_that_is_none_is_refused_and_a_missing_one_is_hinted_at(tmp_path: Path) -> None:
    msvd, rows = protocol("msvd-qa-test"), as_json(tmp_path / "qa.json", [ROW])
    (tmp_path / "m.txt").write_text("-4wsuPCjDBc_5_15 1\n")
    with pytest.raises(DataError, match=r"m\.txt line 1 is not a line of youtube_mapping\.txt: -4wsuPCjDBc_5_15 1"):
        list(msvd.read([rows, tmp_path / "m.txt"]))
    with pytest.raises(DataError, match="vid1: no clip of the set has this name") as caught:
        read_items(clips(tmp_path / "base", "-4wsuPCjDBc_5_15"), annotations=[rows], protocol=msvd)
    assert "youtube_mapping.txt where clips have the names of YouTube" in str(caught.value.hint)


def test_the_official_test_split_of_activitynet_is_whole(tmp_path: Path, shared: Path) -> None:
    folder = shared / "data" / "annotations" / "activitynet"
    files = [folder / "anet_qa_test_q.json", folder / "anet_qa_test_a.json"]
    read = read_items(clips(tmp_path / "base", f"v_{ONE}"), annotations=files, protocol=protocol("activitynet-qa-test"))
    text = read.text()
    assert "activitynet-qa-test: 800 videos and 8,000 texts in the files\n799 videos are MISSING" in text
    assert [item.key for item in read.items] == [f"v_{ONE}", *(f"v_{ONE}#{number}" for number in range(1, 10))]
    assert read.items[0].fields == {
        "question": "is the athlete wearing trousers",
        "question_id": f"v_{ONE}_3",
        "answers": ["no"],
        "answer_weights": [1.0],
        "question_type": "yes/no",
    }


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three questions about two of three clips."""
    base = clips(tmp_path / "base", f"v_{ONE}", "other", f"v_{TWO}")
    files = as_json(tmp_path / "q.json", ACTIVITYNET_Q), as_json(tmp_path / "a.json", ACTIVITYNET_A)
    write_table(read_items(base, annotations=files, protocol=protocol("activitynet-qa-train")), tmp_path / "table")
    return tmp_path / "table"


def test_a_clip_that_is_read_says_its_question_and_the_answers(table: Path) -> None:
    source = ShardSource(table)
    shown = [read_clip(source, ref, choose=lambda stored: [stored // 2], with_record=True) for ref in source.refs()]
    by_question = {clip.record["question_id"]: clip for clip in shown}
    two = by_question[f"v_{TWO}_2"]
    assert (two.record["question"], two.record["answers"]) == ("what color is the hair", ["dark brown"])
    assert two.record["caption"] == "clip 2", "the json of the clip says the rest"
    assert two.frames[0, 0, 0, 0] == 2
    assert by_question[f"v_{ONE}_1"].group == by_question[f"v_{ONE}_3"].group != two.group


def test_questions_of_a_video_count_as_the_same_in_training(table: Path) -> None:
    plan = LoaderPlan(seed=1, global_draws=3, image_side=16, micro=3)
    (batch,) = Loader([SourceSpec("qa", table, FramePolicy("sparse", 2, 4))], plan).micro_batches(0)
    assert batch.ids is not None
    groups = dict(zip(batch.keys, batch.ids.tolist(), strict=True))
    assert groups[f"v_{ONE}"] == groups[f"v_{ONE}#1"] != groups[f"v_{TWO}"]


def test_an_evaluation_set_gives_each_question_once(table: Path) -> None:
    request = ClipRequest(middle_frames(2), side=16, caption_field="question")
    found = [item for batch in EvaluationSet(table, request, batch_size=2).batches() for item in batch.items]
    assert [item.captions for item in found] == [(entry["question"],) for entry in ACTIVITYNET_Q]
