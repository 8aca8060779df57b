"""`umt-data answers`: which answers questions have, the list of the most frequent, and what a list can reach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.making.item_table import read_items, write_table
from data_prep.protocols.known import protocol
from tests.support.shards import write_shards
from tests.support.umt_data import Umt, umt_data

GIVEN = [["man"], ["dog"], ["man"], ["dog", "cat", "dog"], ["two cats"]]


@pytest.fixture
def umt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Umt:
    return umt_data(monkeypatch, capsys)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return questions(tmp_path, "table", GIVEN)


def questions(folder: Path, name: str, given: list[list[str]]) -> Path:
    """A table of a question for each list of answers."""
    base = folder / "base"
    if not base.exists():
        write_shards(base, (2,), key=lambda number: f"video{number}")
    rows = [{"video_id": n % 2, "id": n, "question": "what?", "answer": answer} for n, answer in enumerate(given)]
    (folder / f"{name}.json").write_text(json.dumps(rows))
    read = read_items(base, annotations=[folder / f"{name}.json"], protocol=protocol("msrvtt-qa-val"))
    write_table(read, folder / name)
    return folder / name


def test_answers_are_counted_by_questions_and_ties_go_by_text(umt: Umt, table: Path) -> None:
    done = umt("answers", table)
    assert done.code == 0
    assert done.out.splitlines() == [
        "5 questions with 4 different answers, most frequently",
        "       2  dog",
        "       2  man",
        "       1  cat",
        "       1  two cats",
    ]


@pytest.mark.parametrize(
    ("options", "listed"),
    [
        ((), ["dog", "man", "cat", "two cats"]),
        (("--most", "3"), ["dog", "man", "cat"]),
        (("--min-count", "2"), ["dog", "man"]),
        (("--most", "1", "--min-count", "2"), ["dog"]),
    ],
)
def test_the_list_has_the_published_form(umt: Umt, table: Path, options: tuple[str, ...], listed: list[str]) -> None:
    output = table.parent / "answers.json"
    assert umt("answers", table, "-o", output, *options).code == 0
    assert json.loads(output.read_text()) == listed


def test_several_tables_are_counted_together(umt: Umt, tmp_path: Path, table: Path) -> None:
    other = questions(tmp_path, "other", [["cat"], ["cat"]])
    assert "7 questions with 4 different answers, most frequently\n       3  cat" in umt("answers", table, other).out


@pytest.mark.parametrize("published", ['["man", "cat"]', '{"man": 0, "cat": 1}'])
def test_a_list_says_which_score_it_can_reach_at_most(umt: Umt, table: Path, published: str) -> None:
    (table.parent / "list.json").write_text(published)
    out = umt("answers", table, "--against", table.parent / "list.json").out
    assert "list.json: 3 of 5 questions (60.00%) have an answer among these 2" in out
    assert "2 different answers are not among them, most frequently\n       2  dog\n       1  two cats" in out


def test_a_selection_of_a_table_has_the_answers_of_its_items(umt: Umt, table: Path) -> None:
    (table.parent / "out.txt").write_text("video0\nvideo0#1\nvideo0#2\n")
    assert umt("filter", table, table.parent / "some", "--exclude", table.parent / "out.txt").code == 0
    assert "2 questions with 2 different answers" in umt("answers", table.parent / "some").out


@pytest.mark.parametrize("content", ["{}", "[]", "[1]", '"yes"', "yes\nno\n"])
def test_a_file_that_is_no_list_of_answers_is_refused(umt: Umt, table: Path, content: str) -> None:
    (table.parent / "list.json").write_text(content)
    done = umt("answers", table, "--against", table.parent / "list.json")
    assert done.code == 1
    assert "list.json" in done.err


def test_what_has_no_answers_is_refused_and_what_has_no_effect_is_said(umt: Umt, tmp_path: Path, table: Path) -> None:
    done = umt("answers", table, tmp_path / "base")
    assert done.code == 1
    assert f"no item of {tmp_path / 'base'} has answers" in done.err
    assert "without effect without --output: --most" in umt("answers", table, "--most", "3").err
    done = umt("answers", table, "-o", tmp_path / "a.json", "--min-count", "9")
    assert (done.code, (tmp_path / "a.json").exists()) == (1, False)
    assert "no answer is that of 9 questions" in done.err
