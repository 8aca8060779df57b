"""Clips of a run whose mixture changes: the same however ranks, workers and restarts cut it, and as they would have
been up to the change."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.loading import PLAN, assert_same, global_batch, spec
from tests.support.shards import noisy_frames, write_shards
from umt_ds.batch import Batch
from umt_ds.data.loader import Loader, SourceSpec

STEPS = 9
NAMES = ("first", "second", "third")
CHANGED = replace(PLAN, segments={3: {"first": 0.0, "second": 2.0}, 6: {"third": 3.0}})


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[SourceSpec]:
    """Three sources of noise; the third one has nothing until a change gives it a weight."""
    there = tmp_path_factory.mktemp("sources")
    sizes, weights = ([5, 4], [7, 6], [3]), (2.0, 1.0, 0.0)
    return [
        spec(write_shards(there / name, size, members=noisy_frames), name=name, weight=weight)
        for name, size, weight in zip(NAMES, sizes, weights, strict=True)
    ]


@pytest.fixture(scope="module")
def unbroken(sources: list[SourceSpec]) -> list[Batch]:
    return global_batch(sources, range(STEPS), plan=CHANGED)


@given(
    world=st.sampled_from([1, 2, 3]),
    accumulation=st.sampled_from([1, 2]),
    first=st.integers(0, STEPS - 1),
    length=st.integers(1, 4),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_stretch_on_any_ranks_is_the_unbroken_run(
    sources: list[SourceSpec], unbroken: list[Batch], world: int, accumulation: int, first: int, length: int
) -> None:
    """Begun before a change, at it, and after it."""
    steps = range(first, min(STEPS, first + length))
    for step, batch in zip(
        steps, global_batch(sources, steps, world=world, accumulation=accumulation, plan=CHANGED), strict=True
    ):
        assert_same(batch, unbroken[step])


def test_workers_that_run_ahead_over_a_change_make_the_same_batches(
    sources: list[SourceSpec], unbroken: list[Batch]
) -> None:
    for step, batch in enumerate(global_batch(sources, range(2, 7), workers=2, plan=CHANGED), start=2):
        assert_same(batch, unbroken[step])


def test_what_comes_before_a_change_is_the_run_without_it(sources: list[SourceSpec], unbroken: list[Batch]) -> None:
    without = global_batch(sources, range(STEPS), plan=PLAN)
    until_second = global_batch(sources, range(STEPS), plan=replace(PLAN, segments={3: CHANGED.segments[3]}))
    for step in range(3):
        assert_same(without[step], unbroken[step])
    for step in range(3, 6):
        assert_same(until_second[step], unbroken[step])
    assert without[3].digest != unbroken[3].digest
    assert until_second[6].digest != unbroken[6].digest


def test_a_source_that_waits_for_its_weight_changes_nothing_until_then(
    sources: list[SourceSpec], unbroken: list[Batch]
) -> None:
    """The run without it, up to the step where it comes in."""
    two = global_batch(sources[:2], range(6), plan=replace(PLAN, segments={3: CHANGED.segments[3]}))
    for step in range(6):
        assert_same(two[step], unbroken[step])


def test_passes_over_a_source_stay_whole_across_changes(sources: list[SourceSpec]) -> None:
    """Its draws of the whole run, in a row: each pass shows every one of its samples once."""
    loader = Loader(sources, CHANGED)
    shown: dict[str, list[str]] = {name: [] for name in NAMES}
    for draw in range(STEPS * PLAN.global_draws):
        _, meta, _ = loader.builder.draws.show(draw)
        shown[meta.source].append(meta.key)
    loader.close()
    for name, size in zip(NAMES, (9, 13, 3), strict=True):
        assert len(shown[name]) > size, "more than a pass"
        for start in range(0, len(shown[name]) - size + 1, size):
            assert max(Counter(shown[name][start : start + size]).values()) == 1


def test_the_log_says_each_change_where_it_happens(
    sources: Sequence[SourceSpec], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    loader = Loader(sources, CHANGED)
    announced = [record.getMessage() for record in caplog.records]
    assert announced == [
        "mixture from step 0 on: first 66.7 %, second 33.3 %, third 0 %",
        "mixture from step 3 on: first 0 %, second 100 %, third 0 %",
        "mixture from step 6 on: first 0 %, second 40 %, third 60 %",
    ]
    caplog.clear()
    for step in (2, 3, 4):
        list(loader.micro_batches(step))
    loader.close()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == "the mixture changes after 3 steps (data.segments): first 0 %, second 100 %, third 0 %"
