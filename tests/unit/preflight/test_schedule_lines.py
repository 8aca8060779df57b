"""What `umt plan` says of the steps to come: the curve of the learning rate, a mixture that changes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.shards import write_shards
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.engine.schedule import lr_at
from umt_ds.preflight.plan import JobPlan, Request, plan_job
from umt_ds.preflight.plan_text import plan_text
from umt_ds.tasks.sources import media_shares

PAPER = Request(gpus=32, kind="a100", samples=658_000)
SMALL = Request(gpus=1, kind="a100", measure=False)


def recipe(name: str, *overrides: str) -> RunConfig:
    """A shipped run whose data and weights are not here."""
    return load_run(name, overrides, keep_unset=True)


def plan(name: str, *overrides: str, request: Request = PAPER) -> JobPlan:
    return plan_job(recipe(name, *overrides), request, say=lambda text: None)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "12,840 steps of warm-up, then 0.0012, a cosine down to 8e-05 (schedule.curve=cosine_offset)"),
        (["schedule.curve=constant"], "12,840 steps of warm-up, then 0.0012 to the end (schedule.curve=constant)"),
        (
            ["schedule.curve=wsd", "schedule.decay_epochs=20"],
            "then 44,940 steps at 0.0012, straight down to 8e-05 in the last 6,420 (schedule.curve=wsd)",
        ),
    ],
)
def test_a_plan_tells_the_curve_of_the_learning_rate(overrides: list[str], said: str) -> None:
    assert said in plan_text(plan("stage1/b16_k710", *overrides))


def test_the_cooldown_takes_a_tenth_of_the_steps_and_ends_at_zero() -> None:
    cooled, whole = plan("stage1/b16_cooldown").run, plan("stage1/b16_k710").run
    assert 10 * cooled.total_steps == whole.total_steps
    assert (lr_at(cooled.warmup_steps, cooled), lr_at(cooled.total_steps, cooled)) == (whole.peak_lr, 0.0)
    rates = [lr_at(step, cooled) for step in range(cooled.warmup_steps, cooled.total_steps)]
    assert len({round(one - other, 12) for one, other in pairwise(rates)}) == 1, "a straight line"


def test_a_mixture_that_changes_is_told_segment_by_segment(tmp_path: Path) -> None:
    """Shares are exact in blocks of 4,096 draws, which are the segments here."""
    write_shards(tmp_path / "a", [16])
    sources = f"data.sources={{a: {{shards: {tmp_path / 'a'}, weight: 1}}, b: {{shards: {tmp_path / 'a'}, weight: 3}}}}"
    run = ["data.sources=null", sources, "evaluation=null", "task.teacher.weights=random"]
    changing = [
        *run, "batch.global=1", "batch.micro=1", "schedule.steps=12288", "schedule.warmup_steps=9",
        "data.segments.4096.b=0", "data.segments.8192.b=1", "data.segments.99999.b=7",
    ]  # fmt: skip
    text = plan_text(plan("demo/stage1", *changing, request=SMALL))
    _, _, after = text.partition("mixture")
    assert [line.strip() for line in after.splitlines()[:3]] == [
        "steps 0 to 4,095: a 25 % (64 passes), b 75 % (192 passes)",
        "steps 4,096 to 8,191: a 100 % (256 passes), b 0 %",
        "steps 8,192 to 12,287: a 50 % (128 passes), b 50 % (128 passes)",
    ]
    assert "99,999" not in text
    assert "mixture" not in plan_text(plan("demo/stage1", *run, request=SMALL))


def test_the_arithmetic_counts_the_media_of_all_segments() -> None:
    """Half and half for 30 of 100 steps, then clips alone: 15 % images, where all steps half and half have 50 %."""
    sources = "data.sources={c: {shards: a, weight: 1}, i: {shards: b, weight: 1, media: image}}"
    run = ["data.sources=null", "evaluation=null", sources, "schedule.steps=100", "schedule.warmup_steps=9"]
    assert media_shares(recipe("demo/stage2", *run)) == {"image": 0.5, "video": 0.5}
    changing = recipe("demo/stage2", *run, "data.segments.30.i=0")
    assert media_shares(changing) == pytest.approx({"image": 0.15, "video": 0.85})
