"""MSR-VTT: each published form of a split gives the same rows, and what is no row of it is counted."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from data_prep.cli import umt_data as command
from tests.support.caption_files import as_json, as_lines, as_sqlite, reasons, rows
from tests.support.loading import LAST_NUMBER
from tests.support.videos import write_video
from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.source import ShardSource
from umt_ds.errors import DataError

SPLITS = {"video2": "train", "video10": "validate", "video7020": "test"}


def text(video: str, number: int) -> str:
    return f"caption {number} of {video}"


def official(path: Path, *, form: str = "MSRVTT_data.json", splits: dict[str, str] = SPLITS) -> Path:
    """Two captions a video, which are not together, as in the file of the corpus or in that of Frozen in Time."""
    field, video = ("sentences", "video_id") if form == "MSRVTT_data.json" else ("annotations", "image_id")
    videos = [
        {"video_id": name, "split": split, "id": n, "category": 9, "url": "u", "start time": 1.5, "end time": 9.0}
        for n, (name, split) in enumerate(splits.items())
    ]
    said = [
        {video: name, "caption": text(name, number), "sen_id": number} for number in (0, 1) for name in reversed(splits)
    ]
    return as_json(path / form, {"info": {}, "videos" if field == "sentences" else "images": videos, field: said})


def asked(*videos: str) -> list[dict[str, Any]]:
    """Training: a caption an item."""
    return [{"video": video, "caption": text(video, number)} for video in videos for number in (0, 1)]


def of_umt(*videos: str) -> list[dict[str, Any]]:
    return [{"video": f"{video}.mp4", "caption": text(video, number)} for video in videos for number in (0, 1)]


def test_all_forms_of_train7k_give_the_same_rows(tmp_path: Path) -> None:
    expected = asked("video2", "video10")  # numbers are sorted as numbers
    data = official(tmp_path)
    assert rows("msrvtt-train7k", data) == expected
    assert reasons("msrvtt-train7k", data) == {"a caption of another split": 2}
    listed = as_lines(tmp_path / "MSRVTT_train.7k.csv", "video_id", "video10", "video2")
    assert rows("msrvtt-train7k", listed, data) == rows("msrvtt-train7k", data, listed) == expected
    frozen = official(tmp_path, form="MSR_VTT.json")
    assert rows("msrvtt-train7k", frozen, as_lines(tmp_path / "list.txt", "video2", "video10")) == expected
    assert rows("msrvtt-train7k", as_json(tmp_path / "7k.json", of_umt("video10", "video2"))) == expected
    assert rows("msrvtt-train7k", as_sqlite(tmp_path / "7k.db", of_umt("video10", "video2"))) == expected
    lists = [{"video": f"{name}.mp4", "caption": [text(name, 0), text(name, 1)]} for name in ("video10", "video2")]
    assert rows("msrvtt-train7k", as_json(tmp_path / "lists.json", lists)) == expected
    assert rows("msrvtt-train7k", as_sqlite(tmp_path / "lists.sqlite", lists)) == expected


def test_the_files_of_training_and_of_testing_are_one_corpus(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    train = official(tmp_path / "a", splits={name: SPLITS[name] for name in ("video2", "video10")})
    test = official(tmp_path, splits={"video7020": "test"})
    listed = as_lines(tmp_path / "train_list.txt", "video2", "video7020", "video7")
    assert rows("msrvtt-train9k", train, test, listed) == asked("video2", "video7020")
    assert reasons("msrvtt-train9k", train, test, listed) == {
        "a caption of another split": 2,
        "the files have no caption of the video": 1,
    }


def test_a_split_that_no_file_tells_needs_its_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not say which of them are asked") as caught:
        rows("msrvtt-train9k", official(tmp_path))
    assert "--annotations MSRVTT_train.9k.csv" in str(caught.value.hint)
    with pytest.raises(DataError, match="does not say which"):
        rows("msrvtt-train7k", official(tmp_path, form="MSR_VTT.json"))
    with pytest.raises(DataError, match="nothing is said of them"):
        rows("msrvtt-train9k", as_lines(tmp_path / "MSRVTT_train.9k.csv", "video_id", "video2"))


def test_captions_are_not_taken_twice(tmp_path: Path) -> None:
    data, umt = official(tmp_path), as_json(tmp_path / "umt.json", of_umt("video2"))
    with pytest.raises(DataError, match=r"MSRVTT_data.json and .*umt.json both have captions of video2"):
        rows("msrvtt-train7k", data, umt)
    with pytest.raises(DataError, match="given twice"):
        rows("msrvtt-train7k", umt, umt)


def test_1ka_has_a_caption_a_video_and_forms_agree(tmp_path: Path) -> None:
    expected = [{"video": name, "caption": [text(name, 0)]} for name in ("video7020", "video9770")]
    jsfusion = as_lines(
        tmp_path / "MSRVTT_JSFUSION_test.csv",
        "key,vid_key,video_id,sentence",
        'ret0,msr9770,video9770,"caption 0 of video9770"',
        "ret1,msr7020,video7020,caption 0 of video7020",
    )
    assert rows("msrvtt-1ka", jsfusion) == expected
    umt = [{"video": f"{name}.mp4", "caption": text(name, 0)} for name in ("video9770", "video7020")]
    assert rows("msrvtt-1ka", as_json(tmp_path / "msrvtt_test1k.json", umt)) == expected
    with pytest.raises(DataError, match="has 20 captions of a video, and msrvtt-1ka asks one") as caught:
        rows("msrvtt-1ka", official(tmp_path))
    assert "MSRVTT_JSFUSION_test.csv" in str(caught.value.hint)


def test_multiple_choice_has_texts_and_the_place_of_the_right_one(tmp_path: Path) -> None:
    texts = {name: [f"{letter} {name}" for letter in "abcde"] for name in ("video7021", "video7010")}
    expected = [{"video": name, "options": texts[name], "answer": 3} for name in ("video7010", "video7021")]
    umt = [{"video": f"{name}.mp4", "caption": options, "answer": 3} for name, options in texts.items()]
    assert rows("msrvtt-mc", as_json(tmp_path / "msrvtt_mc_test.json", umt)) == expected
    assert rows("msrvtt-mc", as_sqlite(tmp_path / "msrvtt_mc_test.db", umt)) == expected
    others = [
        json.dumps({"qid": n, "clip_name": name, "options": options, "answer": 3})
        for n, (name, options) in enumerate(texts.items())
    ]
    assert rows("msrvtt-mc", as_lines(tmp_path / "msrvtt_mc_test.jsonl", *others)) == expected
    tabbed = [
        "\t".join((f"qa{n}", f"msr{name.removeprefix('video')}", *options, "3"))
        for n, (name, options) in enumerate(texts.items())
    ]
    header = "key\tvid_key\ta1\ta2\ta3\ta4\ta5\tanswer"
    assert rows("msrvtt-mc", as_lines(tmp_path / "MSR_MC_test.csv", header, *tabbed)) == expected


def test_an_empty_text_keeps_its_place_among_the_others(tmp_path: Path) -> None:
    said = [{"video": "video1.mp4", "caption": ["a", "", "c"], "answer": 2}]
    expected = [{"video": "video1", "options": ["a", "", "c"], "answer": 2}]
    assert rows("msrvtt-mc", as_json(tmp_path / "mc.json", said)) == expected
    assert rows("msrvtt-mc", as_sqlite(tmp_path / "mc.db", said)) == expected


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"video": "video1.mp4", "caption": ["a", "b"], "answer": 2}, "the answer 2 is no place among its 2 texts"),
        ({"video": "video1.mp4", "caption": ["a", "b"]}, "the answer None"),
        ({"video": "video1.mp4", "caption": "a", "answer": 0}, "no texts to choose from"),
        ({"video": "video1.mp4", "caption": ["a", 7], "answer": 0}, "should have a text or a list of texts"),
        ({"caption": ["a", "b"], "answer": 0}, "names no video"),
    ],
)
def test_a_question_that_cannot_be_asked_names_its_row(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=f"mc.json entry 1.*{said}"):
        rows("msrvtt-mc", as_json(tmp_path / "mc.json", [row]))


def test_what_is_no_form_of_the_corpus_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no list `sentences`; it has videos"):
        rows("msrvtt-train7k", as_json(tmp_path / "a.json", {"videos": []}))
    with pytest.raises(DataError, match=r"b.json entry 1 has no caption .*its fields are video, label"):
        rows("msrvtt-train7k", as_json(tmp_path / "b.json", [{"video": "video1.mp4", "label": 3}]))
    choice = {"video": "video1.mp4", "caption": ["a", "b"], "answer": 0}
    with pytest.raises(DataError, match=r"mc.json entry 1 has an answer: it is no caption, but a question"):
        rows("msrvtt-1ka", as_json(tmp_path / "mc.json", [choice]))
    with pytest.raises(DataError, match=r"sentences entry 1 names no video"):
        rows("msrvtt-train7k", as_json(tmp_path / "c.json", {"sentences": [{"caption": "a"}]}))


def test_captions_without_text_are_counted(tmp_path: Path) -> None:
    said = [{"video": "video1.mp4", "caption": ["a", " "]}, {"video": "video2.mp4", "caption": []}]
    path = as_json(tmp_path / "umt.json", said)
    assert rows("msrvtt-train9k", path) == [{"video": "video1", "caption": "a"}]
    assert reasons("msrvtt-train9k", path) == {
        "a caption without text": 1,
        "the files have no caption of the video": 1,
    }


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "jsfusion_val_caption_idx.pkl").write_text("(dp0\n.")
    (tmp_path / "captions").write_bytes(pickle.dumps({"video1": ["a"]}))
    for name in ("jsfusion_val_caption_idx.pkl", "captions"):
        with pytest.raises(DataError, match="is a pickle, which can run any program"):
            rows("msrvtt-train7k", tmp_path / name)


def test_the_published_list_of_9k_selects_its_videos(tmp_path: Path, shared: Path) -> None:
    said = [{"video_id": f"video{number}", "caption": "a", "sen_id": number} for number in range(10_000)]
    data = as_json(tmp_path / "MSRVTT_data.json", {"videos": [], "sentences": said})
    splits = shared / "data" / "annotations" / "splits"
    assert len(rows("msrvtt-train9k", data, splits / "msrvtt_train_list_jsfusion.txt")) == 9000
    assert reasons("msrvtt-train9k", data, splits / "msrvtt_train_list_jsfusion.txt") == {
        "a caption of another split": 1000
    }


# ---------------------------------------------------------------- from videos to batches


def umt_data(*arguments: object) -> Result:
    said = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    return said


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of three videos, named as in the corpus."""
    folder = tmp_path_factory.mktemp("msrvtt")
    for name in SPLITS:
        write_video(folder / "videos" / f"{name}.mp4", frames=4)
    umt_data("folder", folder / "videos", folder / "set", "--frames", 2, "--workers", 1)
    return folder / "set"


def test_captions_of_a_video_are_items_that_count_as_the_same(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "train"
    said = umt_data("items", corpus, out, "--annotations", official(tmp_path), "--protocol", "msrvtt-train7k").output
    assert "4 items over 2 clips, with caption; 1 clips have none; 2 rows left out" in said
    assert "2  a caption of another split" in said
    assert "2 videos and 4 texts in the files" in said
    assert "NOT the files of the protocol, which have 7,010 videos and 140,200 texts" in said
    assert "3 samples, frames of 3 decoded: all good" in umt_data("verify", corpus, "--every", 1, "--workers", 1).output
    plan = LoaderPlan(seed=1, global_draws=4, image_side=16, micro=4)
    loader = Loader([SourceSpec("msrvtt", out, FramePolicy("sparse", 2, 2))], plan, tokenize=LAST_NUMBER)
    (batch,) = loader.micro_batches(0)
    assert batch.ids is not None
    assert batch.text is not None
    captions = dict(zip(batch.keys, batch.text.ids.flatten().tolist(), strict=True))  # "caption 1 of video2": 1
    assert captions == {"video2": 0, "video2#1": 1, "video10": 0, "video10#1": 1}
    same = dict(zip(batch.keys, batch.ids.tolist(), strict=True))
    assert same["video2"] == same["video2#1"] != same["video10"] == same["video10#1"]


def test_a_gallery_keeps_what_it_lacks(corpus: Path, tmp_path: Path) -> None:
    said = [{"video": f"{name}.mp4", "caption": text(name, 0)} for name in ("video7020", "video7021")]
    out, file = tmp_path / "1ka", as_json(tmp_path / "msrvtt_test1k.json", said)
    output = umt_data("items", corpus, out, "--annotations", file, "--protocol", "msrvtt-1ka").output
    assert "1 videos are MISSING in the set, so a score is of the others: video7021" in output
    assert load_manifest(out).options["protocol"]["missing"] == ["video7021"]
    request = ClipRequest(middle_frames(2), side=16, caption_field="caption")
    (batch,) = EvaluationSet(out, request, batch_size=4).batches()
    assert [(item.key, item.captions) for item in batch.items] == [("video7020", ("caption 0 of video7020",))]


def test_a_table_of_choices_has_them(corpus: Path, tmp_path: Path) -> None:
    said = [{"video": "video7020.mp4", "caption": ["a", "b", "c", "d", "e"], "answer": 4}]
    out, file = tmp_path / "mc", as_json(tmp_path / "msrvtt_mc_test.json", said)
    output = umt_data("items", corpus, out, "--annotations", file, "--protocol", "msrvtt-mc").output
    assert "1 videos and 5 texts in the files" in output
    source = ShardSource(out)
    assert [source.question(ref).fields for ref in source.refs()] == [
        {"options": ["a", "b", "c", "d", "e"], "answer": 4}
    ]
