"""`umt eval` of models of video and text on what is wrong: one error, with counts and what to do, and no score."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from torch import Tensor

from tests.support.video_text_runs import Kind, odd_weights, video_text_run, write_clips, write_items
from umt_ds.cli.eval import command
from umt_ds.distributed.job import start_job
from umt_ds.environment import RANK_VARIABLES
from umt_ds.errors import DataError, UmtError
from umt_ds.tasks.kinds import build_task

torch.set_num_threads(1)
State = dict[str, Tensor]


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    """One process group for all: opening it costs more than a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in RANK_VARIABLES:
            patch.setenv(name, "set back at the end")
            patch.delenv(name)
        with start_job():
            for name in RANK_VARIABLES:
                patch.delenv(name)
            yield


def said(number: int) -> dict[str, Any]:
    texts = ["a man runs", "red ball", "the dog sits", "blue box"]
    return {
        "caption": texts[number % 4], "question": "a man sits on", "answers": [["box", "ball"][number % 2]],
        "options": [texts[number % 4], texts[(number + 1) % 4]], "answer": number % 2,
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets, run files, and weights of each kind."""
    root = tmp_path_factory.mktemp("world")
    write_clips(root / "train", [said(n) for n in range(2)])
    write_clips(root / "test", [said(n) for n in range(6)])
    (root / "answers.json").write_text(json.dumps(["box", "ball", "dog"]))
    for kind in ("stage2", "retrieval", "question_answering"):
        save_file(state_of(root, kind), root / f"{kind}.safetensors")
    return root


def state_of(folder: Path, kind: Kind, *more: str) -> State:
    run = video_text_run(folder, kind, *more)
    module = odd_weights(build_task(run, device=torch.device("cpu"), precision="fp32").module)
    return {name: tensor.clone().contiguous() for name, tensor in module.state_dict().items()}


def umt_eval(
    folder: Path, kind: Kind, evaluation: Mapping[str, Any], *more: str, weights: Path | None = None
) -> Result:
    words = [f"evaluation.test.{key}={value}" for key, value in {"shards": folder / "test", **evaluation}.items()]
    words += [f"run_dir={folder / 'run'}", f"data.sources.own.shards={folder / 'train'}", *more]
    weights = weights or folder / f"{kind}.safetensors"
    return CliRunner().invoke(command, [str(folder / f"{kind}.yaml"), "--weights", str(weights), *words])


def refused(folder: Path, kind: Kind, evaluation: Mapping[str, Any], *more: str, weights: Path | None = None) -> str:
    """What the one error says, with its hint."""
    ended = umt_eval(folder, kind, evaluation, *more, weights=weights)
    error = ended.exception
    if isinstance(error, UmtError):
        return f"{error.what} | {error.hint}"
    assert isinstance(error, SystemExit), error or ended.output
    assert error.code in (1, 2)
    assert ended.output.count("error: ") == 1, ended.output
    assert "hint: " in ended.output
    return " ".join(ended.output.split())


RETRIEVAL = {"kind": "retrieval"}
RERANKED = {"kind": "retrieval", "rerank.candidates": 2}
CHOICE = {"kind": "multiple_choice"}


def answers_of(folder: Path) -> dict[str, Any]:
    return {"kind": "question_answering", "answers": folder / "answers.json"}


def test_what_is_right_is_scored(folder: Path) -> None:
    for kind, evaluation in (("retrieval", RERANKED), ("stage2", CHOICE), ("question_answering", answers_of(folder))):
        found = umt_eval(folder, kind, evaluation)  # type: ignore[arg-type]
        assert found.exit_code == 0, found.exception


# ---------------------------------------------------------------- weights

VIDEO = "vision_encoder.encoder."
FILES: dict[str, Callable[[State], State]] = {
    "stage1": lambda s: {f"encoder.{k.removeprefix(VIDEO)}": v for k, v in s.items() if k.startswith(VIDEO)},
    "no head": lambda s: {k: v for k, v in s.items() if not k.startswith("itm_head")},
    "no text": lambda s: {k: v for k, v in s.items() if not k.startswith("text_")},
    "bert": lambda s: {k.removeprefix("text_encoder."): v for k, v in s.items() if k.startswith("text_encoder.")},
    "other words": lambda s: {k: v[:15] if "word_embeddings" in k else v for k, v in s.items()},
    "no fusion": lambda s: {k: v for k, v in s.items() if "crossattention" not in k},
    "nan": lambda s: {k: v * torch.nan if k == "itm_head.weight" else v for k, v in s.items()},
    "empty": lambda s: {},
}
SAID = {
    "stage1": "video encoder alone", "no head": "no itm_head", "no text": "no text_encoder", "bert": "no ",
    "other words": "15", "no fusion": "fusion", "nan": "NaN", "empty": "no ",
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [*(("retrieval", name) for name in FILES), ("stage2", "stage1")])
def test_weights_that_cannot_compare_videos_with_texts(folder: Path, tmp_path: Path, kind: Kind, name: str) -> None:
    save_file(FILES[name](state_of(folder, kind)), tmp_path / "odd.safetensors")
    told = refused(folder, kind, RETRIEVAL, weights=tmp_path / "odd.safetensors")
    assert SAID[name] in told
    assert "odd.safetensors" in told


@pytest.mark.parametrize("kind", ["retrieval", "stage2"])
def test_weights_of_question_answering_do_not_compare(folder: Path, kind: Kind) -> None:
    told = refused(folder, kind, RETRIEVAL, weights=folder / "question_answering.safetensors")
    assert "question answering" in told


@pytest.mark.parametrize("name", ["stage1", "no text", "bert", "other words", "no fusion", "empty"])
def test_weights_that_cannot_answer(folder: Path, tmp_path: Path, name: str) -> None:
    save_file(FILES[name](state_of(folder, "stage2")), tmp_path / "odd.safetensors")
    told = refused(folder, "question_answering", answers_of(folder), weights=tmp_path / "odd.safetensors")
    assert "odd.safetensors" in told


EQUAL = "task.{}.sizes={{width: 20, depth: 2, heads: 5, patch: 5}}"  # a decoder reads what the video encoder gives


def test_fine_tuned_retrieval_has_no_word_head_for_answers(folder: Path, tmp_path: Path) -> None:
    save_file(state_of(folder, "retrieval", EQUAL.format("encoder")), tmp_path / "tuned.safetensors")
    told = refused(
        folder,
        "question_answering",
        answers_of(folder),
        EQUAL.format("encoder"),
        weights=tmp_path / "tuned.safetensors",
    )
    assert "tuned.safetensors" in told
    assert "word head" in told or "cls" in told


def test_a_decoder_that_nobody_has_trained_is_not_scored(folder: Path, tmp_path: Path) -> None:
    save_file(state_of(folder, "stage2", EQUAL.format("student")), tmp_path / "begun.safetensors")
    told = refused(
        folder,
        "question_answering",
        answers_of(folder),
        EQUAL.format("encoder"),
        weights=tmp_path / "begun.safetensors",
    )
    assert "no answer decoder" in told
    assert "umt train question_answering/" in told


def test_another_size_of_frames_needs_no_other_weights(folder: Path) -> None:
    for frames in (1, 4, 16):
        found = umt_eval(folder, "retrieval", RERANKED, f"task.encoder.frames={frames}")
        assert found.exit_code == 0, found.exception


def test_a_teacher_that_sees_frames_of_its_own_size_binds_nobody_who_only_judges(folder: Path) -> None:
    tower = "{width: 16, layers: 2, heads: 2, patch_size: 4, image_size: 16, out_width: 8}"
    teacher = f"task.teacher={{preset: custom, tower: {tower}, layers: 1, weights: /not/there.pt}}"
    more = [teacher, "task.loss_weights.uta=1", "task.student.image_size=25"]
    found = umt_eval(folder, "stage2", RERANKED, *more)
    assert found.exit_code == 0, found.exception


def test_more_tokens_than_bert_has_places(folder: Path) -> None:
    told = refused(folder, "retrieval", RETRIEVAL, "task.text.max_tokens=513")
    assert "512 positions" in told


# ---------------------------------------------------------------- sets


@pytest.mark.parametrize(
    ("kind", "evaluation", "broken", "why"),
    [
        ("retrieval", RETRIEVAL, {"label": 1}, "no caption in 'caption'"),
        ("retrieval", RERANKED, {"caption": " .,;"}, "no caption in 'caption'"),
        ("retrieval", CHOICE, {"caption": "a man"}, "options is no list of texts"),
        ("retrieval", CHOICE, {"options": ["a man"], "answer": 0}, "options has 1 of the two texts"),
        ("retrieval", CHOICE, {"options": ["a man", ".."], "answer": 0}, "an empty text in place 1"),
        ("retrieval", CHOICE, {"options": ["a man", "dog"], "answer": 2}, "answer=2 is no place among its 2 texts"),
        ("question_answering", None, {"question": "a man"}, "no answer"),
        ("question_answering", None, {"answers": ["box"]}, "no question"),
        ("question_answering", None, {"question": ["a man", "dog"], "answers": ["box"]}, "2 questions"),
    ],
)
def test_sets_that_do_not_say_what_is_asked(
    folder: Path, tmp_path: Path, kind: Kind, evaluation: Any, broken: dict[str, Any], why: str
) -> None:
    write_clips(tmp_path / "odd", [broken if n == 3 else said(n) for n in range(6)])
    told = refused(folder, kind, {**(evaluation or answers_of(folder)), "shards": tmp_path / "odd"})
    assert "1 of 6 clips cannot be scored: clip-0003" in told
    assert why in told
    assert "max_left_out" in told
    assert "name the fields that its clips have for " in told


def test_a_set_without_an_item_is_not_made(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it has no rows"):
        write_items(tmp_path / "none", folder / "test", [])


def test_one_video_is_ranked_among_itself_and_chance_says_so(folder: Path, tmp_path: Path) -> None:
    write_clips(tmp_path / "one", [said(0)])
    found = umt_eval(folder, "retrieval", {**RERANKED, "shards": tmp_path / "one"})
    assert found.exit_code == 0, found.exception
    assert "chance.t2v_r1 100" in " ".join(found.output.split())


# ---------------------------------------------------------------- lists of answers


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ('["tree", "sky"]', "none of the first 6 questions"),
        ("[]", "no list of answers, or an empty one"),
        ('{"questions": ["box", "ball"]}', "no list of answers"),
        ("[1, 2]", "answers"),
        ("not json", "answers"),
        ("", "answers"),
    ],
)
def test_lists_without_an_answer(folder: Path, tmp_path: Path, written: str, why: str) -> None:
    (tmp_path / "list.json").write_text(written)
    evaluation = {"kind": "question_answering", "answers": tmp_path / "list.json"}
    told = refused(folder, "question_answering", evaluation)
    assert why in told
    assert "list.json" in told


def test_a_list_that_is_not_there(folder: Path, tmp_path: Path) -> None:
    evaluation = {"kind": "question_answering", "answers": tmp_path / "list.json"}
    assert "list.json" in refused(folder, "question_answering", evaluation)
