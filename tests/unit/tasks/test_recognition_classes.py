"""Class lists: a set whose labels count in another order than the head is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.shards import write_shards
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.errors import ConfigError, DataError
from umt_ds.tasks.recognition.classes import HeadClasses, check_class_list, head_classes

NAMES = ("archery", "biking", "crying")
HEAD = HeadClasses(3, NAMES)


@pytest.fixture(autouse=True)
def away_from_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe names the demo's held-out clips, which may have been made where the tests run."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("archery", "crying", "biking"), "class 1 is 'crying' .* 'biking' .*: the same 3 classes in another order"),
        (("archery", "biking", "diving"), "class 2 is 'diving' in its class list, and 'crying' in that of the head$"),
        (NAMES[:2], "has 2 classes, that of the head 3"),
        ((*NAMES, "diving"), "has 4 classes, that of the head 3"),
        (("archery", "crying"), "class 1 is 'crying' .*; its class list has 2 classes, that of the head 3"),
    ],
)
def test_another_class_list_is_refused_with_the_first_difference(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_class_list(names, HEAD, where="evaluation.val.shards: /sets/val")
    assert raised.value.what.startswith("evaluation.val.shards: /sets/val: ")
    assert raised.match(said.replace("$", "\n"))


def test_the_same_list_passes_and_so_does_another_spelling_of_kinetics() -> None:
    check_class_list(NAMES, HEAD, where="a set")
    tie = HeadClasses(2, ("tying necktie", "biking"))
    check_class_list(("tying tie", "biking"), tie, where="a set as K600 spells it")


def test_of_numbers_instead_of_names_only_how_many_there_are_is_checked() -> None:
    unnamed = HeadClasses(3)
    for head in (HEAD, unnamed):
        check_class_list((), head, where="a set without a list")
        check_class_list(("0", "1"), head, where="a set of numbers")
        with pytest.raises(ConfigError, match="a set: its class list has 4 classes, and the head has 3"):
            check_class_list(("0", "1", "2", "3"), head, where="a set")
    check_class_list(NAMES[::-1], unnamed, where="a set")


def a_set(folder: Path, names: tuple[str, ...]) -> Path:
    """Two clips under this class list."""
    manifest = load_manifest(write_shards(folder, (2,)))
    replace(manifest, labels=names).save(folder)
    return folder


def recognition_run(*overrides: str, **sources: Path) -> RunConfig:
    run = load_run("demo/recognition", ["task.label=label", *overrides])
    (demo,) = run.data.sources.values()
    named = {name: demo.model_copy(update={"shards": str(folder)}) for name, folder in sources.items()}
    return run.model_copy(update={"data": run.data.model_copy(update={"sources": named})})


def test_the_head_has_the_classes_of_the_sources(tmp_path: Path) -> None:
    one, other, unnamed = a_set(tmp_path / "1", NAMES), a_set(tmp_path / "2", NAMES), a_set(tmp_path / "3", ())
    assert head_classes(recognition_run(one=one, other=other)) == HEAD
    mixed = head_classes(recognition_run(unnamed=unnamed, one=one))
    assert (mixed.names, mixed.unchecked) == (NAMES, (f"data.sources.unnamed: {unnamed}",))


def test_a_source_with_another_class_list_is_refused_by_both_names(tmp_path: Path) -> None:
    one, other = a_set(tmp_path / "1", NAMES), a_set(tmp_path / "2", ("archery", "crying", "biking"))
    said = f"data.sources.other: {other}: class 1 is 'crying' .* 'biking' in that of data.sources.one: {one}"
    with pytest.raises(ConfigError, match=said):
        head_classes(recognition_run(one=one, other=other))


def test_task_classes_is_as_many_as_the_class_list_has(tmp_path: Path) -> None:
    one = a_set(tmp_path / "1", NAMES)
    for wrong in (2, 4):
        with pytest.raises(ConfigError, match=f"task.classes is {wrong}, .* has 3 classes"):
            head_classes(recognition_run(f"task.classes={wrong}", one=one))


def test_where_classes_are_numbers_task_classes_may_be_more(tmp_path: Path) -> None:
    """The largest number that occurs is no class list: rarer classes may be missing."""
    numbers = a_set(tmp_path / "1", ("0", "1", "2"))
    assert head_classes(recognition_run(one=numbers)).count == 3
    assert head_classes(recognition_run("task.classes=5", one=numbers)).count == 5
    with pytest.raises(ConfigError, match="its class list has 3 classes, and the head has 2"):
        head_classes(recognition_run("task.classes=2", one=numbers))


@pytest.mark.parametrize("name", ["archery", "0"])
def test_a_set_of_one_class_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"data.sources.one: .*: its class list has one class"):
        head_classes(recognition_run(one=a_set(tmp_path / "1", (name,))))


def test_a_class_list_that_names_a_class_twice_is_refused_with_both_numbers(tmp_path: Path) -> None:
    twice = a_set(tmp_path / "1", ("archery", "biking", "archery"))
    with pytest.raises(ConfigError, match=r"data.sources.one: .*: classes 0 and 2 of its .* are both 'archery'"):
        head_classes(recognition_run("task.classes=3", one=twice))


def test_nobody_says_how_many_classes_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task.classes: nobody says .*: data.sources.one: .* has no class list"):
        head_classes(recognition_run(one=a_set(tmp_path / "1", ())))
    with pytest.raises(DataError, match=r"holds no manifest\.json"):
        head_classes(recognition_run(one=tmp_path / "nowhere"))


def test_a_model_is_judged_where_its_training_sets_are_not(tmp_path: Path) -> None:
    nowhere, val = tmp_path / "nowhere", a_set(tmp_path / "val", NAMES)
    assert head_classes(recognition_run(one=nowhere), known=NAMES).names == NAMES  # as its checkpoint says
    judged = f"evaluation={{top: {{kind: classification, shards: {val}}}}}"
    assert head_classes(recognition_run("task.classes=3", judged, one=nowhere)).names == NAMES
