"""The learning rate of each step against the published arrays, and which parameters decay."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from umt_ds.config.batching import RunPlan, plan_run
from umt_ds.config.load import check, load_run
from umt_ds.config.optimisation import LrCurve, OptimConfig, ScheduleConfig
from umt_ds.config.show import as_tree, numbers_of
from umt_ds.engine.optim import build_adamw, decay_groups
from umt_ds.engine.schedule import lr_at
from umt_ds.errors import ConfigError
from umt_ds.models.alignment import AlignmentModel
from umt_ds.models.presets import StudentPreset, vit_size
from umt_ds.models.vit import VideoViT

K710_SAMPLES = 658_340  # about the size of the training list


def plan(
    total: int, warmup: int, *, peak: float = 1.2e-3, low: float = 8e-5, curve: LrCurve = "cosine_offset"
) -> RunPlan:
    return RunPlan(
        world=1, micro=1, chunk=1, accumulation=1, draws_per_step=1, views_per_step=1, steps_per_epoch=1,
        total_steps=total, warmup_steps=warmup, peak_lr=peak, min_lr=low, lr_curve=curve,
    )  # fmt: skip


def published_array(total: int, warmup: int, *, peak: float = 1.2e-3, low: float = 8e-5) -> NDArray[np.float64]:
    """The authors' `cosine_scheduler` in numpy: linspace, then half a cosine (METHOD.md, "Learning rate")."""
    rest = np.arange(total - warmup)
    cosine = low + 0.5 * (peak - low) * (1 + np.cos(np.pi * rest / len(rest)))
    return np.concatenate([np.linspace(0, peak, warmup), cosine])


@pytest.mark.parametrize(("total", "warmup"), [(1000, 200), (10, 1), (10, 2), (7, 0), (3, 2), (64_200, 12_840)])
def test_every_step_has_the_rate_of_the_published_array(total: int, warmup: int) -> None:
    ours = [lr_at(step, plan(total, warmup)) for step in range(total)]
    np.testing.assert_allclose(ours, published_array(total, warmup), rtol=1e-12, atol=1e-18)


def test_the_warm_up_begins_at_zero_and_ends_at_the_peak() -> None:
    rates = [lr_at(step, plan(100, 20)) for step in range(100)]
    assert rates[0] == 0
    assert rates[19] == rates[20] == max(rates) == 1.2e-3, "linspace includes its end; the cosine starts there too"
    assert rates[-1] > 8e-5, "the minimum itself is where the next step would be"
    assert lr_at(100, plan(100, 20)) == lr_at(105, plan(100, 20)) == 8e-5


def floored(step: int, total: int, warmup: int) -> float:
    """The authors' `get_cosine_schedule_with_warmup` of multi_modality, minimum .01 (METHOD.md, "Learning rate")."""
    if step < warmup:
        return max(0.01, step / max(1, warmup))
    progress = (step - warmup) / max(1, total - warmup)
    return max(0.01, 0.5 * (1.0 + math.cos(math.pi * 0.5 * 2.0 * progress)))


@pytest.mark.parametrize(
    ("total", "warmup"), [(60, 6), (25, 0), (10, 1), (10, 2), (3, 2), (1, 0), (200, 150), (13_100, 1_310)]
)
def test_a_floored_curve_is_cut_off_at_the_minimum_at_every_step(total: int, warmup: int) -> None:
    of_run = plan(total, warmup, peak=1e-4, low=1e-6, curve="cosine_floor")
    ours = [lr_at(step, of_run) for step in range(total + 1)]
    np.testing.assert_allclose(ours, [1e-4 * floored(s, total, warmup) for s in range(total + 1)], rtol=1e-12)
    assert lr_at(2 * total, of_run) == 1e-6, "it does not climb again"


def test_a_floored_curve_starts_at_the_minimum_and_reaches_the_peak_after_the_warm_up() -> None:
    rates = [lr_at(step, plan(60, 6, peak=1e-4, low=1e-6, curve="cosine_floor")) for step in range(60)]
    assert rates[0] == 1e-6
    assert rates[6] == max(rates) == 1e-4
    assert rates[3] == pytest.approx(5e-5)
    assert rates[-3:] == [1e-6] * 3, "the last steps have the minimum itself"


def in_phases(total: int, warmup: int, decay: int, *, peak: float = 1.2e-3, low: float = 8e-5) -> NDArray[np.float64]:
    """wsd phase by phase: np.linspace for both straight lines; the last rate is that of the step after the run."""
    hold = np.full(total - warmup - decay, peak)
    return np.concatenate([np.linspace(0, peak, warmup), hold, np.linspace(peak, low, decay + 1)])


@pytest.mark.parametrize(
    ("total", "warmup", "decay"), [(100, 20, 10), (100, 0, 100), (10, 1, 9), (7, 0, 1), (64_200, 12_840, 6_420)]
)
def test_wsd_warms_up_holds_and_falls_straight_to_the_minimum(total: int, warmup: int, decay: int) -> None:
    run = replace(plan(total, warmup, curve="wsd"), decay_steps=decay)
    ours = [lr_at(step, run) for step in range(total + 1)]
    np.testing.assert_allclose(ours, in_phases(total, warmup, decay), rtol=1e-12, atol=1e-18)
    assert ours[total - decay] == 1.2e-3, "the first step of the decay still has the peak"
    assert ours[total - 1] > 8e-5 == ours[total] == lr_at(2 * total, run), "the minimum is where the next would be"


def test_a_constant_curve_stays_at_the_peak_after_the_warm_up() -> None:
    rates = [lr_at(step, replace(plan(50, 5, curve="constant"), warmup_lr=1e-4)) for step in range(60)]
    np.testing.assert_allclose(rates[:5], np.linspace(1e-4, 1.2e-3, 5), rtol=1e-12)
    assert set(rates[4:]) == {1.2e-3}


def schedules() -> st.SearchStrategy[ScheduleConfig]:
    """In steps: 10 to 30, of which up to 5 warm up and up to 5 decay."""
    curves = st.sampled_from(("cosine_offset", "cosine_floor", "wsd", "constant"))
    return st.builds(
        lambda curve, steps, warmup, decay: ScheduleConfig(
            curve=curve, steps=steps, warmup_steps=warmup, decay_steps=decay if curve == "wsd" else None
        ),
        curves, st.integers(10, 30), st.sampled_from((0, 5)), st.integers(1, 5),
    )  # fmt: skip


@given(one=schedules(), other=schedules(), step=st.integers(0, 30))
@hypothesis_settings(max_examples=100, deadline=None)
def test_two_schedules_that_are_said_to_be_the_same_so_far_have_the_same_rates(
    one: ScheduleConfig, other: ScheduleConfig, step: int
) -> None:
    if one.is_same_until(other, step):
        assert rates_of(one, step) == rates_of(other, step)


def rates_of(schedule: ScheduleConfig, steps: int) -> list[float]:
    of_run = plan(schedule.steps or 0, schedule.warmup_steps or 0, curve=schedule.curve)
    return [lr_at(step, replace(of_run, decay_steps=schedule.decay_steps or 0)) for step in range(steps)]


def test_a_longer_run_is_the_same_until_the_shorter_one_decays() -> None:
    def wsd(steps: int) -> ScheduleConfig:
        return ScheduleConfig(curve="wsd", steps=steps, warmup_steps=10, decay_steps=20)

    assert wsd(100).is_same_until(wsd(200), 80)
    assert not wsd(100).is_same_until(wsd(200), 81)
    constant = ScheduleConfig(curve="constant", steps=50, warmup_steps=10)
    assert constant.is_same_until(wsd(100), 80), "one decays from a constant run"
    cosine = ScheduleConfig(steps=100, warmup_steps=10)
    assert not cosine.is_same_until(cosine.model_copy(update={"steps": 200}), 50)
    in_epochs = ScheduleConfig(curve="constant", epochs=5)
    assert not in_epochs.is_same_until(ScheduleConfig(curve="constant", epochs=6), 1), "an epoch's length is not known"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["schedule.curve=wsd"], "curve: wsd falls in the last decay_steps, which is not given"),
        (["schedule.decay_steps=2"], "decay_steps is for curve: wsd, and curve is cosine_offset"),
        (["schedule.curve=wsd", "schedule.decay_epochs=2"], "give epochs, warmup_epochs and decay_epochs, or"),
        (["schedule.curve=constant", "schedule.epochs=9", "schedule.decay_epochs=2"], "decay_epochs is for"),
    ],
)
def test_a_decay_that_is_missing_or_of_another_curve_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_run("demo/stage1", overrides)


def test_a_decay_without_room_is_refused_with_what_to_shorten() -> None:
    wsd = ["schedule.curve=wsd", "schedule.steps=10", "schedule.warmup_steps=4", "schedule.decay_steps=7"]
    with pytest.raises(ConfigError, match=r"warm-up \(4 steps\) and decay \(7 steps\) are longer than the run") as no:
        plan_run(load_run("demo/stage1", wsd), world=1, num_samples=64)
    assert "schedule.decay_*" in str(no.value)
    short = ["schedule.curve=wsd", "schedule.epochs=5", "schedule.warmup_epochs=0", "schedule.decay_epochs=0.001"]
    with pytest.raises(ConfigError, match="is less than a step"):
        plan_run(load_run("demo/stage1", short), world=1, num_samples=64)


def test_a_run_in_steps_drops_an_inherited_decay_in_epochs() -> None:
    overrides = ["schedule.curve=wsd", "schedule.decay_epochs=2", "schedule.steps=10", "schedule.decay_steps=4"]
    schedule = load_run("demo/stage1", overrides).schedule
    assert (schedule.decay_epochs, schedule.decay_steps) == (None, 4)


def test_recipes_of_stage_2_take_the_floored_curve_and_those_of_stage_1_the_offset_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("UMT_DATA", "UMT_CLIP_B16", "UMT_BERT_BASE", "UMT_STAGE1_B16", "UMT_STAGE2_B16_5M"):
        monkeypatch.setenv(variable, "/x")
    for name, curve, first in (("stage1/b16_k710", "cosine_offset", 0.0), ("stage2/b16_25m", "cosine_floor", 1e-6)):
        run = plan_run(load_run(name), world=32, num_samples=25_680_000)
        assert (run.lr_curve, lr_at(0, run)) == (curve, first)
    assert load_run("stage2/ablations/extra_unmasked").schedule.curve == "cosine_floor"


def test_a_run_folder_of_before_there_was_a_choice_is_the_experiment_that_it_was() -> None:
    now = load_run("demo/stage1")
    before = as_tree(now)
    del before["schedule"]["curve"]
    assert numbers_of(check(before, {})) == numbers_of(now)


def test_a_floor_above_the_peak_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optim\.min_lr: it is above lr, which is 1e-06"):
        load_run("demo/stage1", ["schedule.curve=cosine_floor", "optim.lr=1e-6", "optim.min_lr=1e-5"])


def test_k710_has_the_published_rates_and_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMT_DATA", "/x")
    monkeypatch.setenv("UMT_CLIP_B16", "/x")
    run = plan_run(load_run("stage1/b16_k710"), world=32, num_samples=K710_SAMPLES)
    assert (run.peak_lr, run.min_lr) == pytest.approx((1.2e-3, 8e-5), rel=1e-12)
    assert (run.accumulation, run.steps_per_epoch) == (1, 321), "658 340 // 2048"
    assert (run.warmup_steps, run.total_steps) == (40 * 321, 200 * 321)


@pytest.mark.parametrize(
    ("rule", "draws", "views", "scale"),
    [("per_256", 2048, 1, 8.0), ("per_256", 1024, 2, 8.0), ("per_256", 64, 1, 0.25), ("absolute", 2048, 2, 1.0)],
)
def test_the_rate_counts_views_and_not_draws(rule: str, draws: int, views: int, scale: float) -> None:
    """per_256: lr × (global batch × num_sample) / 256; the minimum is scaled the same way."""
    config = load_run(
        "demo/stage1",
        [f"optim.lr_rule={rule}", "optim.lr=1.5e-4", "optim.min_lr=1e-5", f"batch.global={draws}",
         f"data.num_sample={views}"],
    )  # fmt: skip
    run = plan_run(config, world=2, num_samples=10_000)
    assert (run.draws_per_step, run.views_per_step) == (draws, draws * views)
    assert (run.peak_lr, run.min_lr) == pytest.approx((1.5e-4 * scale, 1e-5 * scale), rel=1e-12)


# ---------------------------------------------------------------- parameter groups


def on_meta(preset: StudentPreset, *, out_width: int) -> nn.Module:
    """The student with six decoders, without memory."""
    with torch.device("meta"):
        return AlignmentModel(VideoViT(vit_size(preset)), out_width=out_width)


def test_b16_decays_55_tensors_and_leaves_129_alone() -> None:
    """The published counts (METHOD.md, "Optimisation: stage 1"): 87,883,776 and 122,112 numbers."""
    decayed, others = decay_groups(on_meta("vit_b16", out_width=512), 0.05)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    assert (len(decayed["params"]), sum(p.numel() for p in decayed["params"])) == (55, 87_883_776)
    assert (len(others["params"]), sum(p.numel() for p in others["params"])) == (129, 122_112)


@pytest.mark.parametrize(
    ("preset", "out_width", "total"), [("vit_b16", 512, 88_005_888), ("vit_l16", 768, 307_806_720)]
)
def test_every_parameter_is_in_exactly_one_group(preset: StudentPreset, out_width: int, total: int) -> None:
    module = on_meta(preset, out_width=out_width)
    grouped = [p for group in decay_groups(module, 0.05) for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in module.parameters()}
    assert len(grouped) == len(list(module.parameters()))
    assert sum(p.numel() for p in grouped) == total


def test_biases_and_norms_do_not_decay_and_frozen_parameters_are_in_no_group() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    module[2].requires_grad_(False)
    decayed, others = decay_groups(module, 0.1)
    assert [p is module[0].weight for p in decayed["params"]] == [True]
    assert {id(p) for p in others["params"]} == {id(module[0].bias), id(module[1].weight), id(module[1].bias)}


def test_a_module_of_biases_alone_has_one_group() -> None:
    assert [group["weight_decay"] for group in decay_groups(nn.LayerNorm(3), 0.1)] == [0.0]


def test_the_optimizer_takes_its_numbers_from_the_configuration() -> None:
    optim = OptimConfig(lr=1.0, lr_rule="absolute", betas=(0.8, 0.9), eps=1e-6, weight_decay=0.3)
    adamw = build_adamw(decay_groups(nn.Linear(2, 2), optim.weight_decay), optim)
    told = [(group["betas"], group["eps"], group["weight_decay"], group["lr"]) for group in adamw.param_groups]
    assert told == [((0.8, 0.9), 1e-6, 0.3, 0.0), ((0.8, 0.9), 1e-6, 0.0, 0.0)]
