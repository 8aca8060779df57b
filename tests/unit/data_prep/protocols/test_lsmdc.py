"""LSMDC: the tables of the challenge and the rows of UMT give the same, and times in names are no suffixes."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.making.item_table import read_items
from data_prep.protocols import known
from tests.support.caption_files import as_json, as_lines, as_sqlite, reasons, rows
from tests.support.shards import write_shards
from umt_ds.data.shards.records import sample_key
from umt_ds.errors import DataError

JUNO, HEAT = "1004_Juno_00.00.32.840-00.00.37.264", "3001_21_JUMP_STREET_00.03.13.210-00.03.16.159"
TIMES = "00.00.32.840\t00.00.37.546\t00.00.32.840\t00.00.37.546"


def official(path: Path, *said: tuple[str, str]) -> Path:
    return as_lines(path, *(f"{clip}\t{TIMES}\t{text}" for clip, text in said))


def of_umt(*said: tuple[str, str]) -> list[dict[str, str]]:
    return [{"video": f"{clip.rpartition('_')[0]}/{clip}.avi", "caption": text} for clip, text in said]


def test_both_forms_of_training_give_the_same_rows(tmp_path: Path) -> None:
    """A quote is a letter of the sentence, and a clip can have two sentences."""
    said = ((HEAT, 'SOMEONE says "stop'), (JUNO, "SOMEONE runs."), (HEAT, "She's gone."))
    expected = [{"video": clip, "caption": text} for clip, text in (said[1], said[0], said[2])]
    assert rows("lsmdc-train", official(tmp_path / "LSMDC16_annos_training.csv", *said)) == expected
    as_lines(tmp_path / "tabs.csv", *(f"{clip}\t{TIMES}\t{text}\t" for clip, text in said))
    assert rows("lsmdc-train", tmp_path / "tabs.csv") == expected
    assert rows("lsmdc-train", as_json(tmp_path / "lsmdc_ret_train.json", of_umt(*said))) == expected
    assert rows("lsmdc-train", as_sqlite(tmp_path / "lsmdc_ret_train.db", of_umt(*said))) == expected


@pytest.mark.parametrize("split", ["lsmdc-val", "lsmdc-test"])
def test_both_forms_of_testing_give_a_clip_with_its_sentences(tmp_path: Path, split: str) -> None:
    said = ((HEAT, "SOMEONE leaves."), (JUNO, "SOMEONE runs."))
    expected = [{"video": clip, "caption": [text]} for clip, text in reversed(said)]
    assert rows(split, official(tmp_path / "LSMDC16_challenge_1000_publictect.csv", *said)) == expected
    assert rows(split, as_json(tmp_path / "lsmdc_ret_test_1000.json", of_umt(*said))) == expected


def test_the_choice_is_counted_from_one_in_the_file_and_from_zero_in_the_row(tmp_path: Path) -> None:
    texts = [f"Sentence {letter}." for letter in "ABCDE"]
    path = tmp_path / "LSMDC16_multiple_choice_test_randomized.csv"
    as_lines(path, "\t".join((HEAT, TIMES, *texts, "5")), "\t".join((JUNO, TIMES, *texts, "1")))
    assert rows("lsmdc-mc", path) == [
        {"video": JUNO, "options": texts, "answer": 0},
        {"video": HEAT, "options": texts, "answer": 4},
    ]
    umt = [{"video": f"{clip}.avi", "caption": texts, "answer": answer} for clip, answer in ((HEAT, 4), (JUNO, 0))]
    assert rows("lsmdc-mc", as_json(tmp_path / "mc.json", umt)) == rows("lsmdc-mc", path)
    as_lines(path, "\t".join((HEAT, TIMES, *texts, "0")))
    with pytest.raises(DataError, match="line 1: the answer -1 is no place among its 5 texts"):
        rows("lsmdc-mc", path)


def test_the_file_of_another_task_is_refused_with_its_line(tmp_path: Path) -> None:
    path = official(tmp_path / "annos.csv", (JUNO, "SOMEONE runs."))
    with pytest.raises(DataError, match=r"annos.csv line 1 has 6 columns, and should have 11") as caught:
        rows("lsmdc-mc", path)
    assert "LSMDC16_multiple_choice_test_randomized.csv" in str(caught.value.hint)
    blind = as_lines(tmp_path / "LSMDC16_annos_blindtest.csv", f"{JUNO}\t{TIMES}")
    with pytest.raises(DataError, match="line 1 has 5 columns, and should have 6"):
        rows("lsmdc-test", blind)
    with pytest.raises(DataError, match="a list of videos is among the files"):
        rows("lsmdc-mc", path, as_lines(tmp_path / "list.txt", JUNO))


def test_a_list_selects_clips(tmp_path: Path) -> None:
    path = official(tmp_path / "annos.csv", (JUNO, "SOMEONE runs."), (HEAT, "SOMEONE leaves."))
    selected = as_lines(tmp_path / "list.txt", HEAT)
    assert rows("lsmdc-train", path, selected) == [{"video": HEAT, "caption": "SOMEONE leaves."}]
    assert reasons("lsmdc-train", path, selected) == {"a caption of another split": 1}


def test_clips_are_found_in_a_set_of_the_films(tmp_path: Path) -> None:
    """Keys are made of paths below the folder of the films, with their dots encoded."""
    clips = (JUNO, HEAT)
    base = write_shards(
        tmp_path / "set", counts=(2,), key=lambda n: sample_key(f"{clips[n].rpartition('_')[0]}/{clips[n]}.avi")
    )
    path = official(tmp_path / "annos.csv", (HEAT, "SOMEONE leaves."), (JUNO, "SOMEONE runs."), (HEAT, "Again."))
    read = read_items(base, annotations=[path], protocol=known.protocol("lsmdc-train"))
    assert [(item.row, item.fields["caption"]) for item in read.items] == [
        (0, "SOMEONE runs."),
        (1, "SOMEONE leaves."),
        (1, "Again."),
    ]
    assert not read.left_out
    assert "which have 101,079 texts (LSMDC 2016) or 101,055 videos (UMT, table 28)" in read.text()
