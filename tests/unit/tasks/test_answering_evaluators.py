"""How a run of question answering is judged: from its settings to accuracies of its module, and what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.making.item_table import read_items, write_table
from tests.support.answering import answering_run, question, trained, write_list, write_questions
from umt_ds.config.run import RunConfig
from umt_ds.errors import ConfigError, DataError, NonFiniteError
from umt_ds.evaluation.encode import ALONE, no_beat
from umt_ds.evaluation.evaluator import Scores, try_sets
from umt_ds.tasks.kinds import build_task, evaluators_of
from umt_ds.tasks.question_answering.module import AnsweringModule

torch.set_num_threads(1)
ANSWERS = ("red", "green", "dark blue", "yes", "no", "sea side")


def run_on(folder: Path, val: Path, *more: str, answers: Any = ANSWERS) -> RunConfig:
    judged = ["kind=question_answering", f"shards={val}", "batch=4"]
    if answers is not None:
        judged.append(f"answers={write_list(folder / 'answers.json', answers)}")
    return answering_run(folder, *(f"evaluation.val.{one}" for one in [*judged, *more]))


def module_of(run: RunConfig, *, seed: int = 0) -> AnsweringModule:
    """With weights so large that answers differ."""
    module = build_task(run, device=torch.device("cpu"), precision="fp32").module
    assert isinstance(module, AnsweringModule)
    torch.manual_seed(seed)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return module.eval()


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> AnsweringModule:
    """A module that has half learned to answer."""
    return trained(answering_run(tmp_path_factory.mktemp("learned")), 25)[0].module


def score(run: RunConfig, module: AnsweringModule | None = None) -> Scores:
    (evaluator,) = evaluators_of(run)
    found = evaluator.run(module or module_of(run), ALONE, beat=no_beat, predictions=True)
    assert tuple(found.values) == evaluator.metrics
    json.dumps([found.protocol, found.by_type])
    return found


def rows_of(found: Scores) -> list[dict[str, Any]]:
    assert found.predictions is not None
    return [dict(zip(found.predictions, row, strict=True)) for row in zip(*found.predictions.values(), strict=True)]


def test_accuracy_is_the_share_of_questions_whose_best_answer_is_one_of_theirs(
    tmp_path: Path, learned: AnsweringModule
) -> None:
    val = write_questions(tmp_path / "val", (5, 4), first=50)
    found = score(run_on(tmp_path, val, "generate.beams=2"), learned)
    rows = rows_of(found)
    assert len({row["predicted"][0] for row in rows}) > 1
    right = [row["predicted"][0] in row["answers"] for row in rows]
    assert [row["right"] for row in rows] == right
    assert 0 < sum(right) < 9
    assert found.values["accuracy"] == pytest.approx(100 * sum(right) / 9)
    written = [row["written"] in row["answers"] for row in rows]
    assert 0 < sum(written) < 9
    assert found.values["written_accuracy"] == pytest.approx(100 * sum(written) / 9)


def test_numbers_by_type_add_up_to_the_whole(tmp_path: Path) -> None:
    val = write_questions(tmp_path / "val", (5, 4), first=50)
    found = score(run_on(tmp_path, val))
    assert {kind: some["items"] for kind, some in found.by_type.items()} == {"color": 5, "yes/no": 4}
    assert list(found.by_type) == ["color", "yes/no"], "the most frequent first"
    together = sum(some["items"] * some["accuracy"] for some in found.by_type.values()) / 9
    assert found.values["accuracy"] == pytest.approx(together)
    for row in rows_of(found):
        assert row["type"] in found.by_type


def test_questions_without_a_type_are_told_as_such(tmp_path: Path) -> None:
    def members(number: int) -> Any:
        return question(number, **({"question_type": None} if number % 3 == 0 else {}))

    val = write_questions(tmp_path / "val", (6,), members=members)
    assert score(run_on(tmp_path, val)).by_type["without a type"]["items"] == 2
    untyped = write_questions(tmp_path / "untyped", (6,), members=lambda n: question(n, question_type=None))
    assert score(run_on(tmp_path, untyped)).by_type == {}


def test_a_right_answer_is_right_whatever_its_case_and_blanks(tmp_path: Path) -> None:
    val = write_questions(tmp_path / "val", (8,), first=50)
    plain = score(run_on(tmp_path, val)).values["accuracy"]
    shouted = run_on(tmp_path, val, answers=[f" {answer.upper()} " for answer in ANSWERS])
    assert score(shouted).values["accuracy"] == plain > 0


def test_the_batch_does_not_change_what_is_answered(tmp_path: Path) -> None:
    """In the last one of 4, of nine questions, one question stands in for three that are missing."""
    val = write_questions(tmp_path / "val", (9,), first=50)
    found = [
        score(run_on(tmp_path, val, f"batch={batch}", "candidates=3", "generate.beams=2")) for batch in (1, 4, 100)
    ]
    for other in found[1:]:
        for one, two in zip(rows_of(found[0]), rows_of(other), strict=True):
            assert (one["predicted"], one["written"]) == (two["predicted"], two["written"])
            torch.testing.assert_close(
                torch.tensor(one["probability"]), torch.tensor(two["probability"]), rtol=0, atol=1e-5
            )


def test_questions_about_one_video_share_its_encoding(tmp_path: Path) -> None:
    """Of three questions about each of two clips: two clips are encoded, and each question is about its own."""
    clips = write_questions(tmp_path / "clips", (2,), first=50)
    asked = [
        {"key": f"clip-{50 + clip:04d}", "question": text, "answers": ["red"]}
        for clip in range(2)
        for text in ("what is it", "is it dark blue", "how grey is it")
    ]
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    write_table(read_items(clips, annotations=[tmp_path / "asked.json"]), tmp_path / "table")
    together, alone = (run_on(tmp_path, tmp_path / "table", f"batch={batch}") for batch in (6, 1))
    module = module_of(together)
    seen: list[int] = []
    handle = module.encoder.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    found = score(together, module)
    handle.remove()
    assert seen == [2]
    assert found.protocol["videos"] == 2
    for one, two in zip(rows_of(found), rows_of(score(alone, module)), strict=True):
        assert one["question"] == two["question"]
        torch.testing.assert_close(
            torch.tensor(one["probability"]), torch.tensor(two["probability"]), rtol=0, atol=1e-5
        )
    assert len({tuple(row["probability"]) for row in rows_of(found)}) == 6


def test_a_protocol_says_what_the_list_covers_and_how_answers_are_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    val = write_questions(tmp_path / "val", (9,), first=51)  # yes/no: no, yes, no, no, yes; colours: two of each
    run = run_on(tmp_path, val, "candidates=128", "generate.beams=3", answers=["no", "red", "No "])
    said = score(run).protocol
    kept = ("answer_list_length", "questions_with_listed_answer", "candidates", "beams", "answer_tokens")
    answers = [answer for row in rows_of(score(run)) for answer in row["answers"]]
    listed = sum(answer in ("no", "red") for answer in answers)
    assert {key: said[key] for key in kept} == {
        "answer_list_length": 3, "questions_with_listed_answer": listed, "candidates": 3, "beams": 3,
        "answer_tokens": 5,
    }  # fmt: skip
    assert said["best_possible"] == pytest.approx(100 * listed / 9)
    most = max(answers.count(answer) for answer in answers)
    assert said["chance"]["accuracy"] == pytest.approx(100 * most / 9)
    assert said["questions_with_writable_answer"] == 9
    text = caplog.text
    assert "answers.json has no more than once" in text
    assert f"{9 - listed} of 9 questions have no answer among the 3" in text
    assert "questions of data.sources.questions have no answer among the 3" in text


def test_an_answer_that_cannot_be_written_is_no_match(tmp_path: Path) -> None:
    """Words that the vocabulary lacks are [UNK], and to write [UNK] is not to know the answer."""
    val = write_questions(
        tmp_path / "val", (4,), members=lambda n: question(n, answers=["zebra", "sea side red no yes"])
    )
    run = run_on(tmp_path, val, "generate.beams=1", answers=None)
    module = module_of(run)
    with torch.no_grad():
        module.text_decoder.cls["predictions"].bias[1] = 1e4  # [UNK], whatever is asked
    found = score(run, module)
    assert {row["written"] for row in rows_of(found)} == {"[UNK] [UNK] [UNK] [UNK]"}
    assert found.values == {"written_accuracy": 0.0}
    assert found.protocol["questions_with_writable_answer"] == 0


def test_a_list_of_another_corpus_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    val = write_questions(tmp_path / "val", (6,))
    with pytest.raises(ConfigError, match=r"evaluation\.val\.answers: none of the first 6 questions") as told:
        evaluators_of(run_on(tmp_path, val, answers=["swimming", "the beach"]))
    assert "umt-data answers" in (told.value.hint or "")


def test_what_is_no_list_is_told_with_its_key(tmp_path: Path) -> None:
    val = write_questions(tmp_path / "val", (6,))
    with pytest.raises(ConfigError, match=r"evaluation\.val\.answers: .* is no list of answers"):
        evaluators_of(run_on(tmp_path, val, answers=[]))


def test_an_evaluation_that_seeks_no_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither answers, a list to choose from, nor generate"):
        run_on(tmp_path, write_questions(tmp_path / "val", (6,)), answers=None)


def test_questions_without_answers_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def members(number: int) -> Any:
        return question(number, **({2: {"answers": []}, 4: {"question": "?!"}}.get(number, {})))

    val = write_questions(tmp_path / "val", (8,), members=members)
    found = score(run_on(tmp_path, val, "max_left_out=0.5"))
    assert found.items == 6
    assert found.is_partial
    reasons = {one.key: one.reason for one in found.left_out}
    assert reasons == {
        "clip-0002": "the question has no answer (`answers` is missing or empty)",
        "clip-0004": "it has no question in 'question', and should have one",
    }
    assert "2 of 8 clips" in caplog.text


def test_a_set_without_answers_is_refused_before_a_model_is_made(tmp_path: Path) -> None:
    val = write_questions(tmp_path / "val", (8,), members=lambda n: question(n, answers=None))
    with pytest.raises(DataError, match=r"8 of 8 clips cannot be scored: clip-0000 \(the question has no answer"):
        try_sets(evaluators_of(run_on(tmp_path, val)))


@pytest.mark.parametrize("more", [(), ("generate.beams=2",)])
def test_a_model_gone_to_nan_gives_no_score(tmp_path: Path, more: tuple[str, ...]) -> None:
    run = run_on(tmp_path, write_questions(tmp_path / "val", (6,)), *more, answers=None if more else ANSWERS)
    module = module_of(run)
    with torch.no_grad():
        module.text_decoder.cls["predictions"].bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"evaluation\.val"):
        score(run, module)


def test_a_warning_is_given_once_in_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = run_on(tmp_path, write_questions(tmp_path / "val", (6,)), answers=["red"])
    (evaluator,) = evaluators_of(run)
    module = module_of(run)
    caplog.set_level(logging.WARNING)
    caplog.clear()
    for _ in range(2):
        evaluator.run(module, ALONE, beat=no_beat)
    assert len([record for record in caplog.records if "have no answer among" in record.getMessage()]) == 1
