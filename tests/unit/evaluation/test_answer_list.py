"""Lists of answers as files have them, and what is no list."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from umt_ds.errors import ConfigError
from umt_ds.evaluation.answer_list import AnswerList, read_answer_list


def test_a_list_of_texts_and_an_object_that_numbers_them_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(["yes", " Dark blue "]))
    (tmp_path / "b.json").write_text(json.dumps({"yes": 0, "Dark blue": 1}))
    one, two = (read_answer_list(tmp_path / name) for name in ("a.json", "b.json"))
    assert one.answers == two.answers == ("yes", "Dark blue")
    assert one.fingerprint == two.fingerprint != AnswerList(("Dark blue", "yes"), "").fingerprint


def test_answers_are_found_whatever_their_case() -> None:
    among = AnswerList(("Yes", "no", "yes"), "")
    assert among.has_one_of(["maybe", " YES"])
    assert not among.has_one_of(["maybe"])
    assert not among.has_one_of([])
    assert among.twice == ["yes"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps(["yes", "no"]), "is no json"),
        (b"", "is no json"),
        (b"[" * 100_000, "is no json"),
        (b'"yes"', "no list of answers"),
        (b"[]", "no list of answers"),
        (
            '["yes", "\u200b", "\u0301", "no"]'.encode(),
            r"2 of its 4 answers are no texts, or say nothing; in place 1: ",
        ),
        (b'["yes", "", 3, "no"]', r"2 of its 4 answers are no texts, or say nothing; in place 1: '', 2: 3"),
        (b'["yes", "\\ud83d"]', "1 of its 2 answers are no texts"),
    ],
)
def test_what_is_no_list_is_told_in_one_error(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "answers.json").write_bytes(content)
    with pytest.raises(ConfigError, match=says) as told:
        read_answer_list(tmp_path / "answers.json")
    assert "umt-data answers" in (told.value.hint or "")


def test_a_file_that_is_not_there_and_a_folder_are_told(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[]")  # where a folder is empty, its disk may be gone
    with pytest.raises(ConfigError, match="there is no"):
        read_answer_list(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="is a folder"):
        read_answer_list(tmp_path)
