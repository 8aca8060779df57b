"""`umt predict` on small runs: what is said of video files, how it is printed and written, what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from tests.support.predicting import (
    ANSWERS,
    CAPTIONS,
    QUESTIONS,
    answerer_run,
    classifier_run,
    finder_run,
    write_videos,
)
from tests.support.recognition import NAMES, a_set, module_of, run_on
from tests.support.tiny_runs import add_checkpoint, make_config, write_run
from umt_ds.cli.predict import command
from umt_ds.config.load import load_run
from umt_ds.data.pixels.augment import stretch_view
from umt_ds.data.pixels.testing import testing_views
from umt_ds.data.pixels.video import decode
from umt_ds.errors import ConfigError, NonFiniteError, UmtError
from umt_ds.models.video_text import VideoTextModel
from umt_ds.tasks.kinds import build_task, tokenizer_of

torch.set_num_threads(1)


def umt_predict(*words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


def told(*words: object) -> Any:
    """The JSON document."""
    ended = umt_predict(*words, "--json")
    assert ended.exit_code == 0, (ended.exception, ended.stderr)
    return json.loads(ended.stdout)


def refused(*words: object) -> UmtError:
    error = umt_predict(*words).exception
    assert isinstance(error, UmtError), (error, words)
    return error


def texts(document: Any, video: int = 0) -> list[str]:
    (said,) = document["videos"][video]["predictions"]
    return [choice["text"] for choice in said["choices"]]


def numbers(document: Any, kind: str) -> list[float]:
    (said,) = document["videos"][0]["predictions"]
    return [choice[kind] for choice in said["choices"]]


# ---------------------------------------------------------------- classes


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier_run(tmp_path_factory.mktemp("classifier"))


def test_a_classifier_names_each_video_of_a_folder(classifier: Path, videos: Path) -> None:
    document = told(classifier, videos)
    assert [Path(one["video"]).stem for one in document["videos"]] == ["dark", "grey", "bright"]
    assert [texts(document, video)[0] for video in range(3)] == list(NAMES)
    assert sum(numbers(document, "probability")) == pytest.approx(1)
    assert (document["step"], document["averaged"], document["task"]) == (6, False, "recognition")
    assert document["protocol"]["frames"] == "recognition:2x2, of all frames of the video, as published"


def test_the_views_are_those_of_the_evaluation_test_or_those_that_are_asked_for(classifier: Path, videos: Path) -> None:
    video = videos / "dark.mp4"
    config = run_on(classifier.parent / "train", classifier.parent / "train")
    module = module_of(config)
    # 11 frames, 2 of a clip: segments of 5; the two test clips begin at int(5/3) and int(10/3), one clip at int(5/2)
    for words, clips in (((), ([1, 6], [3, 8])), (("--segments", 1, "--crops", 1), ([2, 7],))):
        frames = decode(video, [number for clip in clips for number in clip]).frames
        views = testing_views(frames, side=16, num_crops=3 if len(clips) > 1 else 1)
        by_clip = torch.from_numpy(views).unflatten(1, (len(clips), 2)).flatten(0, 1)  # [crops x clips,2,16,16,3]
        with torch.no_grad():
            expected = module.logits(by_clip).softmax(dim=-1).mean(dim=0).sort(descending=True).values
        document = told(classifier, video, *words)
        assert document["protocol"]["views"] == len(by_clip)
        assert numbers(document, "probability") == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_table_names_the_likeliest_under_the_video(classifier: Path, videos: Path) -> None:
    ended = umt_predict(classifier, videos / "grey.mp4", "--top", 2)
    head, first, *others = ended.stdout.splitlines()
    assert head.split() == [str(videos / "grey.mp4"), "probability"]
    assert first.split()[0] == "biking"
    assert first.endswith(" %")
    assert len(others) == 1


def test_a_file_that_is_no_video_is_named_and_the_others_are_told(
    classifier: Path, videos: Path, tmp_path: Path
) -> None:
    out, picture = tmp_path / "said.json", tmp_path / "said.png"
    words = (videos / "notes.txt", videos / "dark.mp4", "-o", out, "--picture", picture)
    ended = umt_predict(classifier, *words)
    assert ended.exit_code == 1
    assert ended.stderr.startswith(f"error: {videos / 'notes.txt'}: ")
    assert "archery" in ended.stdout
    bad, good = json.loads(out.read_text())["videos"]
    assert (bad["predictions"], good["error"]) == ([], None)
    assert bad["error"] in ended.stderr
    with Image.open(picture) as drawn:
        assert drawn.width > 800


def test_classes_without_names_are_told_by_number_or_by_a_list(videos: Path, tmp_path: Path) -> None:
    train = a_set(tmp_path / "train", names=("0", "1", "2"))
    config = run_on(train, train, f"run_dir={tmp_path / 'run'}")
    run = write_run(config)
    add_checkpoint(run, config, weights=module_of(config).state_dict(), classes=("0", "1", "2"))
    ended = umt_predict(run, videos / "grey.mp4")
    assert "nobody names the 3 classes" in ended.stderr
    assert "class 1" in ended.stdout.splitlines()[1]
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n\n")
    assert texts(told(run, videos / "grey.mp4", "--classes", tmp_path / "names.txt"))[0] == "biking"
    assert "400 names, and the model has 3 classes" in refused(run, videos / "grey.mp4", "--classes", "k400").what


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--caption", "a dog"], "--caption: this run names classes"),
        (["--question", "what"], "--question: this run names classes"),
        (["--classes", "k400"], "the checkpoint names its 3 classes (archery, biking, crying)"),
        (
            ["--segments", "3", "evaluation.test.rule=ssv2"],
            "--segments 3: the frames of this run are those of",
        ),
        (["no-such.mp4"], "no-such.mp4: there is no such file or folder"),
        (["-o", "no/such/folder.json"], "nothing can be written in no/such"),
    ],
)
def test_what_a_classifier_does_not_take_is_one_error(
    classifier: Path, videos: Path, words: Sequence[str], said: str
) -> None:
    assert said in refused(classifier, videos / "dark.mp4", *words).what


def test_a_run_that_says_nothing_of_videos_is_refused(videos: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path)
    run = write_run(config)
    add_checkpoint(run, config)
    assert "learns features and no names" in refused(run, videos / "dark.mp4").what


def test_folders_without_videos_and_sets_of_shards_are_refused(classifier: Path, tmp_path: Path) -> None:
    assert "is a set of shards" in refused(classifier, classifier.parent / "train").what
    (tmp_path / "a.txt").touch()
    assert "no file below it is called as videos are" in refused(classifier, tmp_path).what


def test_numbers_that_are_none_are_an_error(videos: Path, tmp_path: Path) -> None:
    train = a_set(tmp_path / "train")
    config = run_on(train, train, f"run_dir={tmp_path / 'run'}")
    run = write_run(config)
    weights = {name: torch.full_like(one, 1e30) for name, one in module_of(config).state_dict().items()}
    add_checkpoint(run, config, weights=weights, classes=NAMES)
    assert isinstance(refused(run, videos / "dark.mp4"), NonFiniteError)


# ---------------------------------------------------------------- captions


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finder_run(tmp_path_factory.mktemp("finder"))


def by_hand(run: Path, video: Path) -> tuple[list[float], list[float]]:
    """Similarity and probability of a match of each caption, one at a time."""
    config = load_run(str(run / "config.yaml"))
    module = build_task(config, device=torch.device("cpu"), precision="fp32").module.eval()
    assert isinstance(module, VideoTextModel)
    with torch.no_grad():
        module.itm_head.weight.mul_(30)
    task: Any = config.task
    frames, side = task.clip_shape
    numbers = np.linspace(0, 11, frames + 1).astype(int)
    middles = [(start + end - 1) // 2 for start, end in pairwise(numbers.tolist())]
    pixels = stretch_view(decode(video, middles).frames, side=side, antialias=config.data.augment.antialias)
    tokenizer: Any = tokenizer_of(config)
    near, match = [], []
    with torch.no_grad():
        tokens = module.vision_encoder.encoder(torch.from_numpy(pixels)[None]).tokens
        vectors = module.embed_video(module.vision_encoder.pool(tokens, frames=frames))[0]  # [T,C]
        for caption in CAPTIONS:
            text = tokenizer([tokenizer.clean(caption)])
            states = module.text_encoder.encode(text.ids, text.mask)
            near.append((vectors @ module.embed_text(states)[0]).mean().item())
            fused = module.text_encoder.fuse(states, text.mask, tokens)
            match.append(module.match(fused).softmax(dim=-1)[0, 1].item())
    return near, match


def asked(captions: Sequence[str] = CAPTIONS) -> list[str]:
    return [word for caption in captions for word in ("--caption", caption)]


def test_captions_are_ranked_by_their_similarity(finder: Path, videos: Path) -> None:
    near, _ = by_hand(finder, videos / "grey.mp4")
    document = told(finder, videos / "grey.mp4", *asked())
    order = sorted(range(4), key=lambda number: -near[number])
    assert texts(document) == [CAPTIONS[number] for number in order]
    assert numbers(document, "similarity") == pytest.approx([near[number] for number in order], abs=1e-5)


def test_with_match_they_are_ranked_by_how_probably_they_match(finder: Path, videos: Path) -> None:
    near, match = by_hand(finder, videos / "grey.mp4")
    order = sorted(range(4), key=lambda number: -match[number])
    assert order != sorted(range(4), key=lambda number: -near[number]), "or this shows nothing"
    document = told(finder, videos / "grey.mp4", *asked(), "--match", "--top", 3)
    assert texts(document) == [CAPTIONS[number] for number in order[:3]]
    assert numbers(document, "match") == pytest.approx([match[number] for number in order[:3]], abs=1e-5)
    assert numbers(document, "similarity") == pytest.approx([near[number] for number in order[:3]], abs=1e-5)


def test_captions_come_from_a_file_too(finder: Path, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("\n".join([*CAPTIONS[1:], ""]))
    from_file = told(finder, videos / "grey.mp4", "--caption", CAPTIONS[0], "--captions", tmp_path / "captions.txt")
    assert from_file["videos"] == told(finder, videos / "grey.mp4", *asked())["videos"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "says which of some captions fits, and is given none"),
        (["--caption", " ?!"], "caption ' ?!' says nothing"),
        (["--caption", "a", "--crops", "3"], "--crops: this run says which of some captions fits"),
    ],
)
def test_captions_that_are_missing_or_empty_are_one_error(
    finder: Path, videos: Path, words: Sequence[str], said: str
) -> None:
    error = refused(finder, videos / "grey.mp4", *words)
    assert isinstance(error, ConfigError)
    assert said in error.what


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "is no list of texts"),
        (b"\n \n", "says nothing"),
        (b"[1]", "entry 0 is no text"),
        (b'["a", " "]', "entry 1 is an empty text"),
        (b'["\\ud800"]', "a text holds half a character"),
    ],
)
def test_a_file_of_captions_that_holds_none_is_one_error(
    finder: Path, videos: Path, tmp_path: Path, content: bytes, said: str
) -> None:
    file = tmp_path / ("list.json" if content[:1] == b"[" else "list.txt")
    file.write_bytes(content)
    assert said in refused(finder, videos / "grey.mp4", "--captions", file).what


# ---------------------------------------------------------------- answers


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return answerer_run(tmp_path_factory.mktemp("answerer"))


def test_a_list_of_answers_is_ranked_for_each_question(answerer: Path, videos: Path) -> None:
    words = [word for question in QUESTIONS for word in ("--question", question)]
    document = told(answerer, videos / "grey.mp4", *words, "--answers", answerer.parent / "answers.json")
    said = document["videos"][0]["predictions"]
    assert [one["question"] for one in said] == list(QUESTIONS)
    for one in said:
        shares = [choice["probability"] for choice in one["choices"]]
        assert sorted(choice["text"] for choice in one["choices"]) == sorted(ANSWERS)
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1)
    alone = told(answerer, videos / "grey.mp4", *words[2:], "--answers", answerer.parent / "answers.json")
    (by_itself,) = alone["videos"][0]["predictions"]
    assert [choice["text"] for choice in by_itself["choices"]] == [choice["text"] for choice in said[1]["choices"]]
    other = told(answerer, videos / "dark.mp4", *words, "--answers", answerer.parent / "answers.json")
    assert other["videos"][0]["predictions"] != said, "the video is looked at"


def test_without_a_list_an_answer_is_written(answerer: Path, videos: Path) -> None:
    greedy = told(answerer, videos / "grey.mp4", "--question", QUESTIONS[0])
    (choice,) = greedy["videos"][0]["predictions"][0]["choices"]
    assert choice["text"]
    beams = told(answerer, videos / "grey.mp4", "--question", QUESTIONS[0], "--beams", 4)
    assert beams["videos"][0]["predictions"][0]["choices"][0]["probability"] >= choice["probability"]
    ended = umt_predict(answerer, videos / "grey.mp4", "--question", QUESTIONS[0])
    assert ended.stdout.splitlines()[0].startswith(f"{videos / 'grey.mp4'}: {QUESTIONS[0]}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--question", "a", "--answers", "answers.json", "--beams", "2"], "--beams is for answers that are written"),
        (["--answers", "answers.json"], "this run answers questions, and is asked none"),
        (["--question", "what", "--caption", "a"], "--caption: this run answers questions"),
        (["--question", "?", "--answers", "answers.json"], "question '?' says nothing"),
    ],
)
def test_questions_that_are_missing_or_empty_are_one_error(
    answerer: Path, videos: Path, words: Sequence[str], said: str
) -> None:
    given = [answerer.parent / word if word.endswith(".json") else word for word in words]
    assert said in refused(answerer, videos / "grey.mp4", *given).what


def test_blanks_around_the_answers_of_a_list_are_none_of_theirs(answerer: Path, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "blanks.json").write_text(json.dumps([f" {answer} " for answer in ANSWERS]))
    document = told(answerer, videos / "grey.mp4", "--question", QUESTIONS[0], "--answers", tmp_path / "blanks.json")
    assert sorted(texts(document)) == sorted(ANSWERS)


def test_answers_are_chosen_among_as_many_as_the_run_is_judged_by(answerer: Path, videos: Path, tmp_path: Path) -> None:
    """By default 128 of the list: more than those cannot be told."""
    (tmp_path / "many.txt").write_text("\n".join(f"answer {number}" for number in range(200)))
    asked_so = ("--question", QUESTIONS[0], "--answers", tmp_path / "many.txt", "--top")
    assert len(texts(told(answerer, videos / "grey.mp4", *asked_so, 128))) == 128
    error = refused(answerer, videos / "grey.mp4", *asked_so, 129)
    assert "of the 200 answers the 128 with the likeliest first piece are scored" in error.what
