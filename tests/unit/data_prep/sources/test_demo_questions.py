"""What is asked about the demo's clips has the answers that the clips show, and cannot be told without them."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from data_prep.cli import umt_data
from data_prep.clip import Clip
from data_prep.sources.demo_questions import all_answers, blind_accuracy, caption_rows, choice_rows, question_rows
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.source import ShardSource


def clip(key: str, motion: str, appearance: str = "striped red ball", background: str = "dark") -> Clip:
    caption = f"a {appearance} {motion} over a {background} background"
    return Clip(
        key, key, captions=(caption,), extra={"appearance": appearance, "motion": motion, "background": background}
    )


def test_a_clip_is_asked_what_it_shows() -> None:
    rows = question_rows([clip("a", "turns clockwise")])
    assert [(row["question_type"], row["question"], row["answers"]) for row in rows] == [
        ("color", "what color is the ball", ["red"]),
        ("pattern", "what pattern is the ball", ["striped"]),
        ("background", "what background is it", ["dark"]),
        ("motion", "what does it do", ["turns clockwise"]),
        ("direction", "which way does it turn", ["clockwise"]),
    ]
    assert {row["key"] for row in rows} == {"a"}
    assert len({row["question_id"] for row in rows}) == 5


def test_a_ball_that_grows_has_no_direction() -> None:
    assert "direction" not in {row["question_type"] for row in question_rows([clip("a", "grows")])}


def test_the_list_holds_each_answer_once() -> None:
    motions = ["moves left", "moves right", "grows", "shrinks", "turns counterclockwise"]
    rows = question_rows([clip(str(number), motion) for number, motion in enumerate(motions)])
    assert {answer for row in rows for answer in row["answers"]} <= set(all_answers())
    assert len(set(all_answers())) == len(all_answers()) == 4 + 3 + 3 + 8 + 4 + 2


def test_without_a_look_one_says_what_is_answered_most_often_to_this_question() -> None:
    def row(question: str, answer: str) -> dict[str, object]:
        return {"question": question, "answers": [answer]}

    learned = [row("color", "red"), row("color", "blue"), row("color", "blue"), row("way", "up")]
    asked = [row("color", "blue"), row("color", "red"), row("way", "up"), row("new", "up")]
    assert blind_accuracy(learned, asked) == 0.5  # blue and up are right; red is not, and nothing is known of `new`


def test_wrong_captions_differ_by_the_motion_or_by_the_ball() -> None:
    (row,) = choice_rows([clip("a", "moves left")], seed=0)
    right = row["options"][row["answer"]]
    assert right == "a striped red ball moves left over a dark background"
    assert len(set(row["options"])) == 5
    wrong = [option for option in row["options"] if option != right]
    assert Counter("moves left" in option for option in wrong) == {True: 2, False: 2}
    assert Counter("striped red ball" in option for option in wrong) == {True: 2, False: 2}


def test_the_right_caption_stands_in_every_place_equally_often() -> None:
    rows = choice_rows([clip(str(number), "grows") for number in range(500)], seed=0)
    assert all(70 < count < 130 for count in Counter(row["answer"] for row in rows).values())


def test_captions_of_one_group_say_the_same_in_any_words() -> None:
    clips = [clip("a", "moves left"), replace(clip("b", "moves left"), captions=("other words",)), clip("c", "grows")]
    rows = caption_rows(clips)
    assert [row["key"] for row in rows] == ["a", "b", "c"]
    assert [row["caption"] for row in rows] == [each.captions[0] for each in clips]
    assert rows[0]["group"] == rows[1]["group"] != rows[2]["group"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "world"
    ended = CliRunner().invoke(umt_data, ["demo", str(out), "--clips", "10", "--size", "32", "--workers", "1"])
    assert ended.exit_code == 0, ended.output
    return out


def test_the_demo_has_tables_over_its_clips(demo: Path) -> None:
    asked = {"train_captions": 8, "train_questions": 8, "val_questions": 2, "val_choices": 2}
    for name, clips in asked.items():
        with closing(ShardSource(demo / name)) as source:
            keys = {key for shard in range(len(source.counts)) for key in source.sample_keys(shard)}
            assert len(keys) == clips
        assert load_manifest(demo / name).num_samples == len(json.loads((demo / f"{name}.json").read_text()))
    assert json.loads((demo / "answers.json").read_text()) == all_answers()


def test_the_same_command_again_keeps_the_tables(demo: Path) -> None:
    def table() -> tuple[bytes, int]:
        path = demo / "val_questions" / "items.arrow"
        return path.read_bytes(), path.stat().st_mtime_ns

    before = table()
    ended = CliRunner().invoke(umt_data, ["demo", str(demo), "--clips", "10", "--size", "32", "--workers", "1"])
    assert ended.exit_code == 0, ended.output
    assert table() == before
