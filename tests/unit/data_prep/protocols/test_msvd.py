"""MSVD: each published form of a split gives the same rows, and what is no row of it is counted."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from data_prep.making.coverage import Coverage
from data_prep.protocols import known
from tests.support.caption_files import as_json, as_lines, as_sqlite, reasons, rows
from umt_ds.errors import DataError

# of the corpus; the name of the second has a part that looks like the seconds of another
SQUIRREL, PANDA, DOG = "-4wsuPCjDBc_5_15", "f_9Won2JpOEU_60_80", "zzit5b_-ukg_5_20"
SAID = {SQUIRREL: ["a squirrel eats", 'it says "hi", twice'], PANDA: ["a panda"], DOG: ["a dog runs"]}


def described(path: Path) -> Path:
    """AllVideoDescriptions.txt, with what stands above the lines."""
    lines = [f"{video} {text}" for video, texts in SAID.items() for text in texts]
    return as_lines(
        path, "# Descriptions of the Microsoft Research Video Description Corpus", "", "# Licence: …", *lines
    )


def corpus(path: Path) -> Path:
    """The csv of all languages."""
    lines = ["VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description"]
    for video, texts in SAID.items():
        name, start, end = video.rsplit("_", 2)
        quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
        lines += [f"{name},{start},{end},588702,unverified,55,English,{text}" for text in quoted]
        lines.append(f"{name},{start},{end},588702,clean,55,Slovene,Katarina")
    lines.append("-4wsuPCjDBc,5,15,362812,unverified,55,English,")
    return as_lines(path, *lines)


def listed(path: Path, *videos: str) -> Path:
    return as_lines(path, *videos)


def test_all_forms_of_testing_give_a_video_with_all_of_its_captions(tmp_path: Path) -> None:
    expected = [{"video": video, "caption": SAID[video]} for video in (SQUIRREL, PANDA)]
    test = listed(tmp_path / "test_list.txt", PANDA, SQUIRREL)
    assert rows("msvd-test", described(tmp_path / "AllVideoDescriptions.txt"), test) == expected
    assert rows("msvd-test", test, corpus(tmp_path / "MSR Video Description Corpus.csv")) == expected
    umt = [{"video": f"{video}.avi", "caption": SAID[video]} for video in (PANDA, SQUIRREL)]
    assert rows("msvd-test", as_json(tmp_path / "msvd_ret_test.json", umt)) == expected
    assert rows("msvd-test", as_sqlite(tmp_path / "msvd_ret_test.db", umt)) == expected


def test_training_has_a_caption_an_item(tmp_path: Path) -> None:
    train = listed(tmp_path / "train_list.txt", SQUIRREL, DOG)
    expected = [{"video": video, "caption": text} for video in (SQUIRREL, DOG) for text in SAID[video]]
    assert rows("msvd-train", described(tmp_path / "AllVideoDescriptions.txt"), train) == expected
    umt = [{"video": f"{video}.avi", "caption": SAID[video]} for video in (DOG, SQUIRREL)]
    assert rows("msvd-train", as_json(tmp_path / "msvd_ret_train.json", umt)) == expected


def test_what_is_no_row_is_counted(tmp_path: Path) -> None:
    val = listed(tmp_path / "val_list.txt", DOG, "no_such_0_3")
    assert reasons("msvd-val", corpus(tmp_path / "c.csv"), val) == {
        "a caption that is not in English": 3,
        "a caption of another split": 4,
        "the files have no caption of the video": 1,
    }
    assert reasons("msvd-train", corpus(tmp_path / "c.csv"), listed(val, SQUIRREL))["a caption without text"] == 1


@pytest.mark.parametrize("form", [described, corpus])
def test_the_files_of_all_videos_need_a_list(tmp_path: Path, form: Any) -> None:
    with pytest.raises(DataError, match="does not say which of them are asked") as caught:
        rows("msvd-test", form(tmp_path / ("a.txt" if form is described else "a.csv")))
    assert "--annotations test_list.txt" in str(caught.value.hint)


def test_a_line_without_text_is_counted(tmp_path: Path) -> None:
    path = as_lines(tmp_path / "all.txt", f"{DOG} a dog", DOG, f"{DOG} it runs")
    files = path, listed(tmp_path / "val_list.txt", DOG)
    assert rows("msvd-val", *files) == [{"video": DOG, "caption": ["a dog", "it runs"]}]
    assert reasons("msvd-val", *files) == {"a caption without text": 1}


def test_a_line_that_is_no_caption_is_named(tmp_path: Path) -> None:
    path = as_lines(tmp_path / "all.txt", "# above", f"{DOG} a dog", "a cat without a video")
    with pytest.raises(DataError, match=r"all.txt line 3 has no video and caption: 'a cat"):
        rows("msvd-val", path, listed(tmp_path / "val_list.txt", DOG))
    with pytest.raises(DataError, match="neither names of videos nor videos with captions"):
        rows("msvd-val", as_lines(path, "some text", "and more"))


def test_the_pickle_of_raw_captions_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "raw-captions.pkl"
    path.write_bytes(pickle.dumps({DOG: [["a", "dog"]]}))
    with pytest.raises(DataError, match=r"raw-captions.pkl is a pickle") as caught:
        rows("msvd-test", path, listed(tmp_path / "test_list.txt", DOG))
    assert "CORPORA.md" in str(caught.value.hint)


def test_the_published_list_selects_670_videos_of_the_files(tmp_path: Path, shared: Path) -> None:
    splits = shared / "data" / "annotations" / "splits"
    names = [name for split in ("test", "train") for name in (splits / f"msvd_{split}_list.txt").read_text().split()]
    path = as_lines(tmp_path / "AllVideoDescriptions.txt", *(f"{name} a video" for name in names))
    found = rows("msvd-test", path, splits / "msvd_test_list.txt")
    assert [len(found), len(rows("msvd-train", path, splits / "msvd_train_list.txt"))] == [670, 1200]
    coverage = Coverage(known.protocol("msvd-test"))
    for row in found:
        coverage.count(row["video"], row)
    assert not coverage.as_published()
    assert "which have 670 videos and 27,763 texts" in coverage.text()


def test_a_row_says_where_it_stands(tmp_path: Path) -> None:
    files = [described(tmp_path / "all.txt"), listed(tmp_path / "val_list.txt", DOG)]
    told = [one[0] for one in known.protocol("msvd-val").read(files) if isinstance(one, tuple)]
    assert told == ["all.txt line 7"]
