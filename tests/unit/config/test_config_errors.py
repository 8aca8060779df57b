"""Errors speak the user's keys, quote the user's line, blame who did it, and advise what exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from umt_ds.config.load import load_run
from umt_ds.errors import ConfigError


def error_of(name: str, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as raised:
        load_run(name, overrides)
    assert raised.value.what.isprintable()
    return raised.value


def file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task.teacher.weights=", "task.teacher.weights: give a path or `random` (got nothing, in override"),
        ("task.teacher.weights=null", "task.teacher.weights: give a path or `random` (got null, in override"),
        ("task.teacher.weights=[a]", "task.teacher.weights: give a path or `random` (got ['a'], in override"),
        ("data.sources.demo.shards={a: b}", "data.sources.demo.shards: give text or a list (in override"),
        ("data.sources.demo.shards=[1]", "data.sources.demo.shards[0]: give text (got 1, in override"),
        ("stop_at=soon", "stop_at: give a whole number or null (got 'soon', in override"),
        ("task.loss=l3", "task.loss: give `l2`, `mse` or `smooth_l1` (got 'l3', in override"),
        ("task.mask=3", "task.mask: give a section (got 3, in override"),
        ("data.skip_draws=[[1]]", "data.skip_draws[0]: give a list of 2 (got [1], in override"),
        ("data.skip_draws=[[1, x]]", "data.skip_draws[0][1]: give a whole number (got 'x', in override"),
        ("engine.deepspeed_set.bf16.enabled=null", "engine.deepspeed_set.bf16.enabled: give true or false,"),
        ("optim=null", "optim: give a section (got null, in override"),
        (
            "task.kind=stage9",
            "task.kind: give `stage1`, `stage2`, `image_text`, `recognition`, `retrieval` or `question_answering` "
            "(got 'stage9',",
        ),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_what_may_stand_there(override: str, said: str) -> None:
    assert error_of("demo/stage1", override).what.startswith(said)


@pytest.mark.parametrize(
    ("run", "kind", "said"),
    [
        ("demo/stage1", "retrieval", "a run of task.kind stage1 is judged by knn, not by retrieval"),
        ("demo/teacher", "knn", "a run of task.kind image_text is judged by no evaluation, not by knn"),
    ],
)
def test_an_evaluation_that_the_task_cannot_be_judged_by_is_refused(run: str, kind: str, said: str) -> None:
    error = error_of(run, f"evaluation.mine={{kind: {kind}, shards: a}}")
    assert error.what == f"evaluation.mine.kind: {said}"
    assert error.hint == "leave evaluation.mine away; an inherited one is dropped by evaluation.mine=null"


def test_a_task_without_its_kind_is_told_to_name_it(tmp_path: Path) -> None:
    error = error_of(file(tmp_path, "name: x\ntask: {loss: l2}\n"))
    assert "task.kind: required, but not given" in error.what
    assert "give task.kind=…" in str(error.hint)


@pytest.mark.parametrize(
    ("run", "override", "advice"),
    [
        ("demo/stage2", "task.mask.ratio=0.5", "task.mask.image.ratio and task.mask.video.ratio exist"),
        ("demo/stage2", "task.mask.image.ration=0.5", "task.mask.image.ratio exists"),
        ("demo/stage1", "lr=1", "optim.lr exists"),
        ("demo/stage1", "optim.LR=1", "optim.lr exists"),
        ("demo/stage1", "Seed=1", "seed exists"),
        ("demo/stage1", "extends=[base/stage1]", "a file builds on others by its line `extends: […]`"),
        ("demo/stage1", "batch.global_=3", "batch.global exists"),
        ("demo/stage1", "frames=3", "task.student.frames and data.sources.demo.frames exist"),
        ("demo/stage2", "task.teacher.wieghts=x", "task.teacher.weights exists"),
        ("demo/teacher", "data.sources.demo.frames.kind=x", "task.kind exists"),
    ],
)
def test_an_unknown_key_is_told_with_keys_of_this_task_and_never_with_itself(
    run: str, override: str, advice: str
) -> None:
    error = error_of(run, override)
    key = override.partition("=")[0]
    assert error.what == f"{key}: unknown key (in override {override!r})"
    assert str(error.hint).partition(";")[0] == advice


@pytest.mark.parametrize("key", ["extend", "Extends", "extents"])
def test_a_base_under_another_word_is_the_one_thing_that_is_told(tmp_path: Path, key: str) -> None:
    error = error_of(file(tmp_path, f"{key}: [demo/stage1]\nseed: 3\n"))
    assert error.what == f"{key}: unknown key (in {tmp_path / 'run.yaml'}, line 1: `{key}: [demo/stage1]`)"
    assert error.hint == "a file builds on others by its line `extends: […]`"


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ('seed="5"', "a number stands without quotes"),
        ("seed=1_000", "numbers are decimal digits"),
        ("seed=" + "9" * 5000, "`umt config NAME`"),
        ("optim.lr=fast", "`umt config NAME`"),
    ],
    ids=lambda text: text[:20],
)
def test_the_hint_at_a_number_is_about_what_is_wrong_with_it(override: str, hint: str) -> None:
    error = error_of("demo/stage1", override)
    assert str(error.hint).startswith(hint)
    assert len(str(error)) < 700


def test_a_dotted_key_in_a_file_is_told_how_to_be_written(tmp_path: Path) -> None:
    error = error_of(file(tmp_path, "extends: [demo/stage1]\nbatch.micro: 3\n"))
    assert error.what.startswith("batch.micro: unknown key")
    assert "`batch: {micro: …}`" in str(error.hint)


@pytest.mark.parametrize("name", ['"a\\nb"', '"\\x1b[2J"', '"\\u2028"'])
def test_a_key_with_control_characters_stays_on_its_line(tmp_path: Path, name: str) -> None:
    error_of(file(tmp_path, f"extends: [demo/stage1]\n{name}: 3\n"))
    error_of(file(tmp_path, f"extends: [demo/stage1]\ndata: {{sources: {{{name}: {{shards: x}}}}}}\n"))
    error_of(file(tmp_path, f"extends: [demo/stage1]\ndata: {{sources: {{{name}: 3}}}}\n"))


def test_a_section_that_is_not_there_is_told_with_the_key_that_was_meant() -> None:
    error = error_of("demo/stage1", "task.mask.image.ratio=0.5")
    assert error.what == "task.mask.image: unknown key (in override 'task.mask.image.ratio=0.5')"
    assert str(error.hint).startswith("task.mask.ratio exists")


@pytest.mark.parametrize("key", ["task.text.dropout", "task.mlm.ratio", "task.loss_weights.vtc", "task.tower.width"])
def test_keys_of_other_tasks_are_not_advised(key: str) -> None:
    error = error_of("demo/stage1", f"{key}=1")
    assert f"{key} exist" not in str(error.hint)
    assert "task.text" not in str(error.hint)


def test_the_user_s_line_is_quoted_and_a_shipped_file_is_not_blamed_for_it(tmp_path: Path) -> None:
    run = file(tmp_path, "extends: [demo/stage1]\noptim:\n  lr: fast     # very\nbatch: {micro: 0}\n")
    told = error_of(run, "data.workers=true").what.split("; ")
    assert told == [
        "data.workers: give a whole number (got true, in override 'data.workers=true')",
        f"batch.micro: must be greater than 0 (got 0, in {run}, line 4: `batch: {{micro: 0}}`)",
        f"optim.lr: give a number (got 'fast', in {run}, line 3: `lr: fast     # very`)",
    ]


def test_a_section_at_odds_with_itself_is_told_with_who_touched_it_last(tmp_path: Path) -> None:
    error = error_of("demo/stage1", "schedule.warmup_epochs=1")
    assert error.what == "schedule: give epochs and warmup_epochs, or steps and warmup_steps (in override " + (
        "'schedule.warmup_epochs=1')"
    )
    run = file(tmp_path, "extends: [demo/stage1]\nschedule:\n  warmup_epochs: 3\n")
    assert f"(in {run}, line 3: `warmup_epochs: 3`)" in error_of(run).what


def test_what_replaces_a_section_takes_the_blame_for_all_of_it() -> None:
    assert "in override 'task.student=3'" in error_of("demo/stage1", "task.student.frames=x", "task.student=3").what
    assert (
        "in override 'task.student.frames=x'" in error_of("demo/stage1", "task.student=3", "task.student.frames=x").what
    )


def test_thousands_of_mistakes_are_told_in_one_message_of_bounded_length(tmp_path: Path) -> None:
    text = "extends: [demo/stage1]\n" + "".join(f"key{i}: {i}\n" for i in range(3000))
    error = error_of(file(tmp_path, text))
    assert error.what.endswith("and so on: 3000 in all")
    assert len(str(error)) < 5000


def test_an_override_that_would_change_nothing_is_refused() -> None:
    assert "changes nothing" in error_of("demo/stage1", "data.sources={}").what


@pytest.mark.parametrize(
    "override", ["a." * 5000 + "b=1", ".".join("a" * 25) + "=1", "seed=" + "9" * 5000, "\udce9=1", "seed=\udce9"]
)
def test_an_override_that_nobody_can_mean_is_one_error(override: str) -> None:
    error_of("demo/stage1", override)
