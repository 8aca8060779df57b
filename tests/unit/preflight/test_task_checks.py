"""`umt doctor` of a run that learns classes: what they are, which of them clips have, and what training starts from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.shards import picture, write_shards
from tests.support.stage2_runs import write_for_stage2
from umt_ds.config.evaluation import QuestionAnsweringEvaluation
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.errors import ConfigError, DataError, WeightsError
from umt_ds.models.classifier import VideoClassifier
from umt_ds.models.presets import vit_size
from umt_ds.preflight import run_checks, task_checks
from umt_ds.tasks.recognition.task import RecognitionTask

NAMES = ("archery", "biking", "crying")


@pytest.fixture(autouse=True)
def away_from_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe names the demo's held-out clips, which may have been made where the tests run."""
    monkeypatch.chdir(tmp_path)


def a_set(folder: Path, *, names: tuple[str, ...] = NAMES, clips: int = 3) -> Path:
    """Clip n has the label n."""
    manifest = load_manifest(write_shards(folder, (clips,)))
    replace(manifest, labels=names).save(folder)
    return folder


def a_run(shards: Path | str, *overrides: str) -> RunConfig:
    words = [f"data.sources.demo.shards={shards}", "task.label=label", *overrides]
    return load_run("demo/recognition", words, keep_unset=True)


def weights(path: Path, count: int = 3) -> Path:
    torch.save(VideoClassifier(vit_size("pocket"), classes=count).state_dict(), path)
    return path


def test_classes_and_labels_of_the_first_clips_are_shown_by_name(tmp_path: Path) -> None:
    found = task_checks.classes(a_run(a_set(tmp_path / "set")))
    assert found.status == "ok"
    assert found.there == "3 classes, 'archery' … 'crying'; first clips of demo: archery, biking, crying"


def test_a_set_without_a_class_list_is_noted(tmp_path: Path) -> None:
    found = task_checks.classes(a_run(a_set(tmp_path / "set", names=()), "task.classes=3"))
    assert found.status == "note"
    assert found.there == "3 classes, which nobody names; first clips of demo: 0, 1, 2"
    assert "1 set(s) do not name their classes" in found.todo


def test_a_label_that_is_no_class_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.sources\.demo: a clip has label 3, and classes are 0 to 2"):
        task_checks.classes(a_run(a_set(tmp_path / "set", clips=5)))


def test_an_evaluation_set_in_another_order_is_a_problem(tmp_path: Path) -> None:
    val = a_set(tmp_path / "val", names=NAMES[::-1])
    run = a_run(a_set(tmp_path / "set"), f"evaluation.val={{kind: classification, shards: {val}}}")
    with pytest.raises(ConfigError, match=r"evaluation\.val\.shards: .*class 0 is 'crying' .*in another order"):
        task_checks.classes(run)


def test_weights_are_loaded_as_the_run_loads_them_and_its_warnings_are_notes(tmp_path: Path) -> None:
    file, shards = weights(tmp_path / "w.pth"), a_set(tmp_path / "set")
    found = task_checks.start(a_run(shards, f"init.weights={file}"))
    assert found.status == "note"
    assert found.there == f"{file}: 84 tensors loaded; head: all 3 rows as they are"
    assert "nobody can check that they are in the same order" in found.todo
    anew = task_checks.start(a_run(shards, f"init.weights={file}", "task.head=new"))
    assert (anew.status, "its 3 rows are left out, and 3 begin anew" in anew.there) == ("ok", True)


def test_weights_of_another_size_are_a_problem(tmp_path: Path) -> None:
    shards, file = a_set(tmp_path / "set"), weights(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="its encoder has 6 blocks of width 128, that of the run 12 of width 192"):
        task_checks.start(a_run(shards, f"init.weights={file}", "task.encoder.preset=tiny"))


def test_the_doctor_looks_at_classes_and_start_of_such_a_run_alone(tmp_path: Path) -> None:
    assert {"classes", "init.weights"} <= run_checks._checks_of_run(a_run(tmp_path)).keys()
    assert "classes" not in run_checks._checks_of_run(load_run("demo/stage1"))


def test_a_variable_that_is_not_set_is_named() -> None:
    run = a_run("${env:NOT_SET}/set", "init.weights=${env:NOT_SET}/w.pth")
    for look in (task_checks.classes, task_checks.start):
        assert "NOT_SET is not set" in look(run).there


def test_of_a_task_that_takes_any_label_those_of_the_first_clips_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("umt_ds.tasks.kinds.num_classes_of", lambda run: None)
    monkeypatch.setattr(RecognitionTask, "classes", ())
    found = task_checks.classes(a_run(a_set(tmp_path / "set", clips=2)))
    assert found.there == "labels of any number; first clips of demo: 0, 1"


# ---------------------------------------------------------------- texts


def saying(**said: object) -> Callable[[int], Mapping[str, bytes]]:
    """Clips of two frames that say this; every third one nothing."""

    def members(number: int) -> Mapping[str, bytes]:
        record = said if number % 3 else {}
        frames = {f"{place:03d}.png": picture(np.zeros((16, 16, 3), np.uint8)) for place in range(2)}
        return {**frames, "json": json.dumps(record).encode()}

    return members


def reading(shards: Path, vocabulary: Path, kind: str) -> RunConfig:
    sizes = {"width": 32, "layers": 3, "heads": 2, "hidden": 64, "vocab_size": 128}
    bert = {"preset": "custom", "sizes": sizes, "weights": "random", "vocabulary": str(vocabulary), "max_tokens": 8}
    tree = {"name": kind, "task": {"kind": kind, "text": bert}, "data": {"sources": {"a": {"shards": str(shards)}}},
            "batch": {"global": 2, "micro": 2}, "optim": {"lr": 1e-4, "lr_rule": "absolute"},
            "schedule": {"steps": 1, "warmup_steps": 0}, "engine": {"deepspeed": "cpu.json"}}  # fmt: skip
    (vocabulary.parent / "run.yaml").write_text(json.dumps(tree))
    return load_run(str(vocabulary.parent / "run.yaml"))


def test_texts_of_the_first_clips_are_counted_and_those_that_are_cut(tmp_path: Path) -> None:
    write_for_stage2(tmp_path)
    write_shards(tmp_path / "short", (6,), members=saying(caption="a dog"))
    found = task_checks.texts(reading(tmp_path / "short", tmp_path / "vocab.txt", "retrieval"))
    assert (found.status, found.there) == ("ok", "a: 4 of the first 6 clips have one ('a dog'), 0% fill all tokens")
    write_shards(tmp_path / "long", (6,), members=saying(caption="many many letters"))
    found = task_checks.texts(reading(tmp_path / "long", tmp_path / "vocab.txt", "retrieval"))
    assert found.status == "note"
    assert "100% fill all tokens" in found.there


def test_questions_without_answers_are_a_problem(tmp_path: Path) -> None:
    write_for_stage2(tmp_path)
    write_shards(tmp_path / "asked", (4,), members=saying(question="why", answers=["yes"]))
    found = task_checks.texts(reading(tmp_path / "asked", tmp_path / "vocab.txt", "question_answering"))
    assert found.there.startswith("a: 2 of the first 4 clips have one ('why')")
    write_shards(tmp_path / "bare", (4,), members=saying(question="why"))
    with pytest.raises(DataError, match=r"a: none of its first 4 clips has a text in 'question', or no answer"):
        task_checks.texts(reading(tmp_path / "bare", tmp_path / "vocab.txt", "question_answering"))


def test_a_list_of_answers_is_looked_at(tmp_path: Path) -> None:
    write_for_stage2(tmp_path)
    run = reading(tmp_path / "gone", tmp_path / "vocab.txt", "question_answering")
    settings = {"kind": "question_answering", "shards": "gone", "answers": str(tmp_path / "answers.json")}
    judged = QuestionAnsweringEvaluation.model_validate(settings)
    look = run_checks._checks_of_run(run.model_copy(update={"evaluation": {"test": judged}}))["evaluation.test.answers"]
    with pytest.raises(ConfigError, match=r"there is no .*answers\.json"):
        look()
    (tmp_path / "answers.json").write_text('["yes", "no"]')
    assert (look().status, "2 answers, from 'yes' on" in look().there) == ("ok", True)
    (tmp_path / "answers.json").write_text('["yes", "no", "yes"]')
    assert look().status == "note"


def test_doctor_looks_at_the_texts_of_a_run_with_a_bert(tmp_path: Path) -> None:
    write_for_stage2(tmp_path)
    config = reading(tmp_path / "gone", tmp_path / "vocab.txt", "retrieval")
    assert "texts" in run_checks._checks_of_run(config)
    assert "texts" not in run_checks._checks_of_run(a_run("gone"))
