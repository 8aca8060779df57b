"""`data.segments`, a declared change of the mixture: what it may say, what is refused by key, what is remarked."""

from __future__ import annotations

import pytest

from umt_ds.config.check import check
from umt_ds.config.effect import without_effect
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.config.show import as_tree, as_yaml, numbers_of
from umt_ds.errors import ConfigError

SOURCES = "data.sources={a: {shards: /x, weight: 1}, b: {shards: /y, weight: 2}}"


def run_of(*overrides: str) -> RunConfig:
    return load_run("demo/stage1", ["evaluation=null", "data.sources=null", SOURCES, "schedule.steps=100", *overrides])


def test_changes_are_ordered_by_step_however_they_are_written() -> None:
    one = run_of('data.segments={"30": {a: 0}, "4": {b: 1.5}}')
    other = run_of("data.segments.4.b=1.5", "data.segments.30.a=0")
    assert one.data.changes == other.data.changes == {4: {"b": 1.5}, 30: {"a": 0.0}}
    assert list(one.data.changes) == [4, 30]


def test_they_are_numbers_of_the_experiment_and_are_printed_and_read_again() -> None:
    run = run_of("data.segments.30.a=0")
    assert numbers_of(run)["data.segments.30.a"] == 0.0
    assert check(as_tree(run), {}) == run
    assert "'30':\n      a: 0.0" in as_yaml(as_tree(run))
    before = as_tree(run_of())
    del before["data"]["segments"]
    assert numbers_of(check(before, {})) == numbers_of(run_of()), "a run folder of before there were changes"


def test_null_drops_an_inherited_change() -> None:
    assert run_of("data.segments.30.a=0", "data.segments.40.b=0", "data.segments.30=null").data.changes == {
        40: {"b": 0}
    }
    assert run_of("data.segments.30.a=0", "data.segments=null").data.changes == {}


def test_a_source_may_wait_for_its_weight() -> None:
    assert run_of("data.sources.a.weight=0", "data.segments.30.a=1").data.sources["a"].weight == 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.segments.030.a=0"], r"data\.segments: 030 is no step"),
        (["data.segments.0.a=0"], r"data\.segments: 0 is no step"),
        (["data.segments.1e3.a=0"], r"data\.segments: 1e3 is no step"),
        (["data.segments.9999999999.a=0"], r"data\.segments: 9999999999 is no step"),
        (["data.segments.30.c=0"], r"data\.segments\.30\.c: there is no such source\n.*has a, b"),
        (["data.segments.30.a=1"], r"data\.segments\.30: it changes nothing: a 1, b 2"),
        (["data.segments.30={a: 0, b: 0}"], r"data\.segments\.30: it leaves every source without a draw"),
        (["data.segments.30.a=-1"], r"data\.segments\.30\.a: must be at least 0"),
        (["data.segments.30.a={weight: 0}"], r"data\.segments\.30\.a: give a number"),
        (["data.segments.30.a=0", "schedule.epochs=3"], r"data\.segments: it counts steps, and the schedule counts ep"),
        (["data.segments.30.a=0", "data.sources.b.weight=null"], r"data\.segments: b has no weight"),
        (["data.sources.a.weight=0"], r"data\.sources\.a\.weight: 0, and nothing of it is ever drawn"),
        (["data.sources.a.weight=0", "data.segments.30.b=1"], r"data\.sources\.a\.weight: 0, and nothing"),
        (
            ["data.sources.a.weight=0", "data.sources.b.weight=0", "data.segments.30={a: 1, b: 1}"],
            r"data\.sources: the weights are all 0",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_key(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        run_of(*overrides)
    assert raised.match(said), str(raised.value)


def test_a_change_after_the_end_is_remarked() -> None:
    remarks = without_effect(run_of("data.segments.100.a=0", "data.segments.99.b=1"))
    assert "data.segments.100 has no effect here: the run ends after 100 steps (schedule.steps)" in remarks
    assert not any("data.segments.99" in remark for remark in remarks)


def test_a_constant_rate_makes_no_use_of_its_minimum() -> None:
    told = "optim.min_lr has no effect here: schedule.curve=constant does not fall"
    assert told in without_effect(run_of("schedule.curve=constant", "optim.min_lr=1e-5"))
    assert told not in without_effect(run_of("optim.min_lr=1e-5"))
