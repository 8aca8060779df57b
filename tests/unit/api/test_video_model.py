"""The methods of a model say, to the bit, what the commands say; what a model cannot do is one clear error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.support.predicting import ANSWERS, CAPTIONS, QUESTIONS, finder_run
from tests.support.recognition import NAMES
from umt_ds.api import Prediction, VideoModel, load
from umt_ds.cli import embed, predict
from umt_ds.errors import ConfigError, DataError, NonFiniteError, UmtError
from umt_ds.search.index_files import read_index

torch.set_num_threads(1)


def told(command: Any, *words: object) -> str:
    ended = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert ended.exit_code == 0, ended.stderr
    return ended.stdout


def said_by_command(*words: object) -> list[Any]:
    """What `umt predict` says of one video."""
    (video,) = json.loads(told(predict.command, *words, "--json"))["videos"]
    return list(video["predictions"])


def as_json(said: Prediction) -> dict[str, Any]:
    return {"question": said.question, "choices": [{"text": one.text, **one.numbers} for one in said.choices]}


def error_of(call: Callable[[], object]) -> UmtError:
    with pytest.raises(UmtError) as met:
        call()
    return met.value


# ---------------------------------------------------------------- the same numbers as the commands


def test_classes_are_those_of_umt_predict(classifier: VideoModel, classifier_folder: Path, videos: Path) -> None:
    for name in ("dark", "sub/bright"):
        said = classifier.predict(videos / f"{name}.mp4")
        assert [as_json(said)] == said_by_command(classifier_folder, videos / f"{name}.mp4")
    assert said.choices[0].text == NAMES[2]
    few = classifier.predict(videos / "grey.mp4", top=2, segments=1, crops=1)
    words = ("--top", 2, "--segments", 1, "--crops", 1)
    assert [as_json(few)] == said_by_command(classifier_folder, videos / "grey.mp4", *words)
    assert classifier.can == ("encode_video", "predict", "attention")
    assert classifier.classes == NAMES


def test_matching_texts_are_those_of_umt_predict(finder: VideoModel, finder_folder: Path, videos: Path) -> None:
    words = [word for caption in CAPTIONS for word in ("--caption", caption)]
    for name in ("dark", "grey"):
        said = finder.match(videos / f"{name}.mp4", CAPTIONS)
        assert [as_json(said)] == said_by_command(finder_folder, videos / f"{name}.mp4", *words, "--match")
    assert len(finder.match(videos / "grey.mp4", "a dog").choices) == 1
    assert len(finder.match(videos / "grey.mp4", CAPTIONS, top=3).choices) == 3


def test_answers_are_those_of_umt_predict(answerer: VideoModel, answerer_folder: Path, videos: Path) -> None:
    file, words = videos / "grey.mp4", [word for question in QUESTIONS for word in ("--question", question)]
    listed = said_by_command(answerer_folder, file, *words, "--answers", answerer_folder.parent / "answers.json")
    assert [as_json(one) for one in answerer.answer(file, QUESTIONS, answers=ANSWERS)] == listed
    written = said_by_command(answerer_folder, file, *words[:2], "--beams", 2)
    assert [as_json(answerer.answer(file, QUESTIONS[0], beams=2))] == written


def test_embeddings_are_those_of_umt_embed(
    finder: VideoModel, finder_folder: Path, videos: Path, tmp_path: Path
) -> None:
    told(embed.command, finder_folder, videos, "-o", tmp_path / "index", "--dtype", "float32", "data.workers=0")
    index = read_index(tmp_path / "index")
    files = [videos / str(row["key"]) for row in index.rows(range(len(index)))]
    assert len(files) == 3
    assert np.array_equal(finder.encode_video(files).numpy(), index.vectors)
    words = ("--window", "0.5", "--stride", "0.2", "--dtype", "float32", "--batch", 2, "data.workers=0")
    told(embed.command, finder_folder, files[0], "-o", tmp_path / "windows", *words)
    windows = read_index(tmp_path / "windows")
    found = finder.encode_video(files[0], window=0.5, stride=0.2, batch=2)
    assert np.array_equal(found.embeddings.numpy(), windows.vectors)
    spans = [(row["start_s"], row["end_s"]) for row in windows.rows(range(len(windows)))]
    assert (list(found.spans_s), len(spans)) == (spans, 4)
    assert found.left_out == ()


# ---------------------------------------------------------------- vectors


def test_one_video_is_a_vector_and_several_are_rows(finder: VideoModel, videos: Path) -> None:
    one, two = (finder.encode_video(videos / f"{name}.mp4") for name in ("dark", "grey"))
    both = finder.encode_video([videos / "dark.mp4", str(videos / "grey.mp4")])
    assert (one.shape, both.shape, both.dtype) == ((64,), (2, 64), torch.float32)
    assert torch.allclose(both, torch.stack([one, two]), atol=1e-6)
    assert not both.requires_grad
    assert torch.allclose(finder.encode_video([videos / "dark.mp4", videos / "grey.mp4"], batch=1), both, atol=1e-6)


def test_texts_are_unit_vectors_and_similarity_is_their_product_with_videos(finder: VideoModel, videos: Path) -> None:
    texts = finder.encode_text(list(CAPTIONS))
    assert torch.allclose(texts.norm(dim=1), torch.ones(4))
    assert torch.allclose(finder.encode_text(CAPTIONS[2]), texts[2], atol=1e-6)
    files = [videos / "dark.mp4", videos / "grey.mp4"]
    expected = finder.encode_video(files) @ texts.T
    assert torch.equal(finder.similarity(files, list(CAPTIONS)), expected)
    assert torch.equal(finder.similarity(finder.encode_video(files), texts), expected)
    assert finder.similarity(files[0], "a dog").shape == (1, 1)
    near = {choice.text: choice.numbers["similarity"] for choice in finder.match(files[1], CAPTIONS).choices}
    assert expected[1].tolist() == pytest.approx([near[caption] for caption in CAPTIONS], abs=1e-5)


def test_a_classifier_makes_the_vectors_by_which_knn_votes(classifier: VideoModel, videos: Path) -> None:
    views = classifier.views(classifier.frames_of(videos / "grey.mp4"))
    module: Any = classifier.module
    with torch.no_grad():
        expected = module.features(views)[0]
    assert torch.equal(classifier.encode_video(videos / "grey.mp4"), expected)


# ---------------------------------------------------------------- by hand


def test_the_rule_of_a_task_by_hand_gives_the_same(
    classifier: VideoModel, finder: VideoModel, answerer: VideoModel, videos: Path
) -> None:
    file = videos / "sub/bright.mp4"
    frames = finder.frames_of(file)
    assert (frames.shape, frames.dtype) == ((4, 48, 64, 3), torch.uint8)
    assert finder.views(frames).shape == (1, 4, 64, 64, 3)
    for given in (frames, finder.views(frames), list(frames.numpy())):
        assert torch.equal(finder.encode_video(given).reshape(-1), finder.encode_video(file))
    views = classifier.views(classifier.frames_of(file, of="predict"), of="predict")
    assert views.shape == (6, 2, 16, 16, 3)  # 2 test clips x 3 squares
    assert classifier.predict(views) == classifier.predict(file)
    again = answerer.views(answerer.frames_of(file, of="answer"), of="answer")
    assert answerer.answer(again, QUESTIONS[0]) == answerer.answer(file, QUESTIONS[0])


def test_seconds_of_a_video_are_seen_alone(finder: VideoModel, videos: Path) -> None:
    """11 frames, ten a second: the middle ones of four parts of frames 0 to 4 are 0, 1, 2, 4, as of the window."""
    frames = finder.frames_of(videos / "dark.mp4", start=0.0, end=0.5)
    windows = finder.encode_video(videos / "dark.mp4", window=0.5)
    assert torch.allclose(finder.encode_video(frames), windows.embeddings[0], atol=1e-6)
    assert (
        "hold 2 frames, and the model sees 4"
        in error_of(lambda: finder.frames_of(videos / "dark.mp4", start=0.5, end=0.7)).what
    )
    assert isinstance(error_of(lambda: finder.frames_of(videos / "dark.mp4", start=1, end=0.5)), ConfigError)


def test_attention_sums_to_one_over_the_patches_that_are_looked_at(finder: VideoModel, videos: Path) -> None:
    module: Any = finder.module
    encoder = module.vision_encoder.encoder
    views = finder.views(finder.frames_of(videos / "grey.mp4"))
    maps = finder.attention(videos / "grey.mp4", block=0)
    with torch.no_grad():  # by torch's own words, all heads at once
        x = encoder.blocks[0].norm1(encoder.patch_embed(views, None, encoder.position_table(views)))
        attn = encoder.blocks[0].attn
        bias = torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
        query, key, _ = attn.qkv(x, bias).unflatten(-1, (3, attn.heads, -1)).unbind(2)
        logits = torch.einsum("bnhd,bmhd->bhnm", query, key) / key.shape[-1] ** 0.5
        weights = logits.softmax(dim=-1).mean(dim=1)[0]  # [N,N]
    assert maps.shape == (4, 8, 8)
    assert torch.allclose(maps.flatten(), weights.mean(dim=0), atol=1e-6)
    one = finder.attention(videos / "grey.mp4", block=0, query=(2, 1, 5))
    assert torch.allclose(one.flatten(), weights[2 * 64 + 1 * 8 + 5], atol=1e-6)
    assert float(finder.attention(videos / "grey.mp4").sum()) == pytest.approx(1)


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize("method", ["predict", "answer", "encode_text", "similarity", "match"])
def test_a_method_that_a_model_lacks_is_one_error(
    classifier: VideoModel, finder: VideoModel, answerer: VideoModel, videos: Path, method: str
) -> None:
    file = videos / "grey.mp4"
    calls: dict[str, Callable[[VideoModel], object]] = {
        "predict": lambda model: model.predict(file),
        "answer": lambda model: model.answer(file, "what"),
        "encode_text": lambda model: model.encode_text("a dog"),
        "similarity": lambda model: model.similarity(file, "a dog"),
        "match": lambda model: model.match(file, "a dog"),
    }
    lacking = [model for model in (classifier, finder, answerer) if method not in model.can]
    assert lacking
    for model in lacking:
        error = error_of(lambda model=model: calls[method](model))  # type: ignore[misc]
        assert isinstance(error, ConfigError)
        assert f"which has no {method}()" in error.what
        assert f"it can {', '.join(model.can)}; a run of" in (error.hint or "")


def test_a_run_that_does_not_learn_matching_has_no_match(videos: Path, tmp_path: Path) -> None:
    run = finder_run(tmp_path, "task.loss_weights.vtm=0")
    model = load(run)
    assert "match" not in model.can
    error = error_of(lambda: model.match(videos / "grey.mp4", CAPTIONS))
    assert "does not learn which texts match" in error.what
    assert model.similarity(videos / "grey.mp4", list(CAPTIONS)).shape == (1, 4)
    words = (run, videos / "grey.mp4", "--caption", "a", "--match")
    met = CliRunner().invoke(predict.command, list(map(str, words))).exception
    assert isinstance(met, ConfigError)
    assert "--match: this run does not learn which texts match" in met.what


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model, file: model.encode_video(file, stride=1.0), "stride= is of windows"),
        (lambda model, file: model.encode_video([file], window=1.0), "window= is for one video file"),
        (lambda model, file: model.encode_video(file, window=-1.0), "window=-1.0"),
        (lambda model, file: model.encode_video(file, batch=0), "batch=0"),
        (lambda model, file: model.encode_text([]), "no text is given"),
        (lambda model, file: model.encode_text("?!"), "nothing is left of the text '?!'"),
        (lambda model, file: model.match(file, "a", top=0), "top=0"),
        (lambda model, file: model.match(file, []), "no text is given"),
        (lambda model, file: model.attention(file, block=9), "block=9, and the encoder has 6"),
        (
            lambda model, file: model.attention(file, query=(0, 8, 0)),
            "query=(0, 8, 0) is outside the 4 x 8 x 8 patches",
        ),
    ],
)
def test_arguments_that_mean_nothing_are_one_error(
    finder: VideoModel, videos: Path, call: Callable[[VideoModel, Path], object], said: str
) -> None:
    error = error_of(lambda: call(finder, videos / "grey.mp4"))
    assert isinstance(error, ConfigError)
    assert said in error.what


def test_what_a_command_says_of_options_is_said_of_arguments(
    classifier: VideoModel, classifier_folder: Path, answerer: VideoModel, videos: Path
) -> None:
    many = [f"answer {number}" for number in range(200)]
    error = error_of(lambda: answerer.answer(videos / "grey.mp4", "what", answers=many, top=129))
    assert error.what.startswith("top=129: of the 200 answers the 128 with the likeliest first piece are scored")
    assert error.hint == "top=128 at most"
    assert error_of(lambda: load(classifier_folder, classes="k400")).hint == "leave classes= away"
    said = error_of(lambda: load(classifier_folder, overrides=["evaluation.test.rule=ssv2"]).predict("a", segments=3))
    assert said.what.startswith("segments=3: the frames of this run are those of the rule ssv2")


def test_what_is_no_video_is_named(finder: VideoModel, videos: Path) -> None:
    error = error_of(lambda: finder.encode_video([videos / "grey.mp4", videos / "notes.txt"]))
    assert isinstance(error, DataError)
    assert str(videos / "notes.txt") in error.what
    assert "cannot be read" in error_of(lambda: finder.encode_video(videos / "none.mp4")).what
    assert (
        "5 frames, and encode_video makes views of 4"
        in error_of(lambda: finder.views(np.zeros((5, 8, 8, 3), np.uint8))).what
    )


def test_vectors_that_are_no_numbers_are_an_error(videos: Path, tmp_path: Path) -> None:
    model = load(finder_run(tmp_path))
    with torch.no_grad():
        model.module.get_parameter("vision_proj.bias").fill_(torch.nan)
    assert isinstance(error_of(lambda: model.encode_video(videos / "grey.mp4")), NonFiniteError)
