"""`umt bench step`: its twin is the same step, its parts add up, its points are those asked for. Speed is no test."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.ranks import environment
from umt_ds.batch import Batch
from umt_ds.bench.parity_start import ParityStart
from umt_ds.bench.plain import float_clips, plain_loss, plain_models, published_mask, refuse_unpublished
from umt_ds.bench.plain_recognition import (
    PlainClassifier,
    PlainRecognitionStep,
    published_groups,
    published_mixing,
)
from umt_ds.bench.run import load_step_run
from umt_ds.bench.step import Request, kept_for_backward, measure_step, step_task
from umt_ds.bench.step_report import StepReport, Way, budget_line, load_outcome, save_outcome, sweep_text
from umt_ds.bench.step_sweep import label, sweep_points
from umt_ds.bench.synthetic import SyntheticBatches
from umt_ds.config.batching import plan_run
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.recognition import MixingConfig, RecognitionConfig
from umt_ds.config.tasks.stage1 import Stage1Config
from umt_ds.distributed.job import Job
from umt_ds.distributed.world import World
from umt_ds.errors import ConfigError
from umt_ds.models.presets import vit_size
from umt_ds.tasks.recognition.classes import HeadClasses
from umt_ds.tasks.recognition.task import RecognitionTask
from umt_ds.tasks.stage1.task import Stage1Task

CPU = torch.device("cpu")
NO_VARIABLES = {name: value for name, value in environment().items() if not name.startswith("UMT_")}


def pocket_task(*overrides: str) -> tuple[Stage1Task, Stage1Config]:
    config = load_run("demo/stage1", ["task.teacher.weights=random", *overrides]).task
    assert isinstance(config, Stage1Config)
    return Stage1Task(config, seed=0, device=CPU, precision="fp32"), config


def noise(clips: int) -> Batch:
    pixels = torch.randint(0, 256, (clips, 8, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Batch("video", pixels, torch.arange(clips), torch.arange(clips), ("noise",) * clips)


@pytest.mark.parametrize("align", ["visual", "visual_text"])
def test_captions_of_noise_are_tokens_for_clip_too_where_its_text_tower_teaches(align: str, tmp_path: Path) -> None:
    overrides = [f"task.align_projections={align}", "batch.global=4", "batch.micro=4", f"init.weights={tmp_path}"]
    config = load_run("demo/stage2", overrides)
    job = Job(World.alone(), CPU)
    batches = SyntheticBatches(config, plan_run(config, world=1, num_samples=4), job, shown="packed").micro_batches(0)
    for part in next(batches).parts:
        assert part.text is not None
        clip_ids = part.text.clip_ids
        assert (None if clip_ids is None else clip_ids.shape) == ((2, 77) if align == "visual_text" else None)


@pytest.mark.parametrize("kind", ["retrieval", "question_answering"])
def test_noise_trains_a_fine_tuned_model_of_video_and_text(kind: str, tmp_path: Path) -> None:
    """A step of it, without a vocabulary, weights or shards."""
    bert = {"preset": "custom", "sizes": {"width": 32, "layers": 4, "heads": 2, "hidden": 64, "vocab_size": 128},
            "weights": "nowhere", "fusion_layers": 2}  # fmt: skip
    encoder = {"preset": "pocket", "frames": 2, "image_size": 16}
    tree = {"name": kind, "task": {"kind": kind, "encoder": encoder, "text": bert}, "batch": {"global": 4, "micro": 4},
            "data": {"sources": {"a": {"shards": "nowhere"}}}, "optim": {"lr": 1e-3, "lr_rule": "absolute"},
            "schedule": {"steps": 1, "warmup_steps": 0}, "engine": {"deepspeed": "cpu.json"}}  # fmt: skip
    (tmp_path / "run.yaml").write_text(json.dumps(tree))
    config = load_step_run(str(tmp_path / "run.yaml"), [], ranks=1)
    plan, job = plan_run(config, world=1, num_samples=4), Job(World.alone(), CPU)
    task = step_task(config, plan, job, Request(), "fp32")
    batch = next(SyntheticBatches(config, plan, job, shown="video").micro_batches(0))
    assert (batch.targets.answers is not None) == (kind == "question_answering")
    losses = task.module(task.prepare(batch, 0))
    assert math.isfinite(losses.total.item())
    losses.total.backward()


# ---------------------------------------------------------------- the twin


@pytest.mark.parametrize("tower", ["{patch_size: 8}", "{image_size: 56, patch_size: 7}"])
def test_the_twin_has_our_loss_and_gradients_under_the_same_mask(tower: str) -> None:
    task, config = pocket_task(f"task.teacher.tower={tower}")
    inputs = task.prepare(noise(2), 3)
    ours = task.module(inputs).total
    ours.backward()

    student, teacher = plain_models(config, task.teacher)
    student.load_state_dict(task.module.state_dict())
    video = float_clips(noise(2).pixels)
    mask = torch.ones(2, 8 * 64, dtype=torch.bool).scatter(1, inputs.keep, False)
    features, _ = teacher(video)
    loss = plain_loss(student, video, features, mask)
    loss.backward()

    torch.testing.assert_close(loss, ours, rtol=0, atol=1e-5)
    gradients = {name: parameter.grad for name, parameter in student.named_parameters()}
    for name, parameter in task.module.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=1e-5, msg=name)


def test_the_twin_s_attention_and_masks_are_the_published() -> None:
    task, config = pocket_task()
    _, teacher = plain_models(config, task.teacher)
    _, attention = teacher(float_clips(noise(2).pixels))
    seen = task.teacher.attend(noise(2).pixels).attention
    assert seen is not None
    torch.testing.assert_close(attention, seen.flatten(0, 1), rtol=0, atol=1e-6)
    mask = published_mask(attention, clips=2, ratio=0.8)
    assert mask.shape == (2, 8 * 64)
    assert ((~mask).view(2, 8, 64).sum(dim=-1) == 64 - int(64 * 0.8)).all()


def test_a_run_that_was_never_published_has_no_twin() -> None:
    task, config = pocket_task("task.mask.kind=tube", "task.mask.views=2")
    with pytest.raises(ConfigError, match=r"needs task\.mask\.kind=semantic, task\.mask\.views=1"):
        refuse_unpublished(config, task.teacher)


# ---------------------------------------------------------------- the twin of recognition


def classifier_task(*overrides: str) -> tuple[RecognitionTask, RunConfig]:
    settings = ["task.classes=8", "task.encoder.preset=pocket", "task.encoder.image_size=32", "init.weights=null"]
    config = load_run("recognition/b16_k710", [*settings, *overrides], keep_unset=True)
    assert isinstance(config.task, RecognitionConfig)
    return RecognitionTask(config.task, HeadClasses(8), seed=0, device=CPU), config


def shown_clips(config: RunConfig) -> SyntheticBatches:
    plan = plan_run(config, world=1, num_samples=10**6)
    return SyntheticBatches(config, plan, Job(World.alone(), CPU), shown="video")


def test_noise_has_labels_of_two_classes() -> None:
    _, config = classifier_task("batch.global=2", "batch.micro=2", "task.mixing=null")
    labels = next(shown_clips(config).micro_batches(0)).targets.labels
    assert labels is not None
    assert labels.tolist() == [0, 1, 0, 1], "two views of each of two clips"


def test_the_twin_of_recognition_has_our_loss_on_the_same_mixed_clips() -> None:
    task, config = classifier_task("batch.global=4", "batch.micro=4", "task.mixing.group=8")
    source = shown_clips(config)
    origin = ParityStart.of(task, config, source, CPU)
    twin = origin.reference_step(task, config, CPU, precision="fp32")
    assert isinstance(twin, PlainRecognitionStep)
    ready = twin.ready(next(source.micro_batches(0)))
    assert twin.evaluate(ready, origin.drawn) == pytest.approx(origin.loss, abs=1e-5)
    weight = twin.student.get_parameter("blocks.0.attn.proj.weight")
    for factor, is_same in ((3, False), (1 / 3, True)):
        with torch.no_grad():
            weight.mul_(factor)
        assert (abs(twin.evaluate(ready, origin.drawn) - origin.loss) < 1e-4) == is_same, "another body, another loss"
    assert twin.step(ready, 1e-3) == pytest.approx(math.log(8), abs=0.2)


def test_its_layers_learn_at_the_published_rates() -> None:
    task, config = classifier_task("task.encoder.preset=vit_b16", "task.encoder.image_size=224")
    with torch.device("meta"):
        model = PlainClassifier(vit_size("vit_b16"), classes=8, table=torch.zeros(1, 1))
    groups = published_groups(model, config.optim)
    rate = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    named = dict(model.named_parameters())
    assert rate[id(named["patch_embed.proj.weight"])] == pytest.approx(0.75**13)
    assert rate[id(named["blocks.0.norm1.bias"])] == pytest.approx(0.75**12)
    assert rate[id(named["blocks.11.mlp.fc2.weight"])] == pytest.approx(0.75)
    assert rate[id(named["head.weight"])] == rate[id(named["fc_norm.bias"])] == 1
    assert len(rate) == len(named)
    assert named.keys() == dict(task.module.named_parameters()).keys()


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_its_mixing_is_a_loop_over_rows_in_reverse_order(kind: str) -> None:
    np.random.seed(3)
    settings = MixingConfig.model_validate({"mixup": 0.8, "cutmix": 1.0, "switch": float(kind == "cutmix")})
    video = torch.arange(4.0)[:, None, None, None, None].expand(4, 1, 2, 6, 6).clone()
    mixed = published_mixing(video.clone(), torch.arange(4), settings, classes=5, off=0.02)
    share = ((mixed.targets[0, 0] - 0.02) / 0.9).item()
    for row in range(4):
        partner = 3 - row
        assert mixed.video[row].mean().item() == pytest.approx(share * row + (1 - share) * partner, abs=1e-5)
        assert set(mixed.video[row].unique().tolist()) <= {row, partner} or kind == "mixup"
        expected = torch.full((5,), 0.02)
        expected[row] += 0.9 * share
        expected[partner] += 0.9 * (1 - share)
        torch.testing.assert_close(mixed.targets[row], expected)


# ---------------------------------------------------------------- the run


def test_nothing_but_a_name_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("UMT_DATA", "UMT_CLIP_B16"):
        monkeypatch.delenv(variable, raising=False)
    config = load_step_run("stage1/b16_k710", ["batch.micro=16"], ranks=2)
    assert (config.task.teacher.weights, config.batch.global_) == ("random", 32)  # type: ignore[union-attr]
    (tmp_path / "clip.pt").touch()
    given = ["batch.global=64", f"task.teacher.weights={tmp_path / 'clip.pt'}"]
    config = load_step_run("stage1/b16_k710", given, ranks=1)
    assert (config.task.teacher.weights, config.batch.global_) == (tmp_path / "clip.pt", 64)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "request_", "said"),
    [
        ("demo/teacher", Request(against_plain=True), "image_text has no plain twin"),
        ("retrieval/msrvtt/b16_25m", Request(against_plain=True), "retrieval has no plain twin"),
        ("demo/stage1", Request(against_plain=True, data="shards"), "reads no shards"),
        ("demo/stage2", Request(against_plain=True, shown="packed"), "shows one medium"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(name: str, request_: Request, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        measure_step(name, [], request_)


def test_what_autograd_keeps_is_counted_without_weights() -> None:
    layer = nn.Linear(4, 3)
    with kept_for_backward(layer) as kept:
        layer(torch.randn(2, 4)).exp().sum()
    assert sum(storage.nbytes() for storage in kept.values()) == 4 * (2 * 4 + 2 * 3), "the input, and what exp gave"


# ---------------------------------------------------------------- sweeps


def test_the_points_of_a_sweep() -> None:
    assert sweep_points(["a.b=1,2", "c=x"]) == [("a.b=1", "c=x"), ("a.b=2", "c=x")]
    assert sweep_points(["a=1,2", "b=x,y"]) == [("a=1", "b=x"), ("a=1", "b=y"), ("a=2", "b=x"), ("a=2", "b=y")]
    assert sweep_points(["a=1,2 b=x,y"]) == [("a=1", "b=x"), ("a=2", "b=y")], "keys that move together"
    assert label(("engine.deepspeed_set.zero_optimization.stage=1", "seed=2")) == "zero_optimization.stage=1 seed=2"


@pytest.mark.parametrize("sweep", ["", "batch.micro", "batch.micro=", "a=1,2 b=x", "=1,2", "a=1,,2"])
def test_a_sweep_that_is_none_is_a_configuration_error(sweep: str) -> None:
    with pytest.raises(ConfigError):
        sweep_points([sweep])


# ---------------------------------------------------------------- what is printed

REPORT = StepReport(
    about={"what": "a student"},
    clips=4,
    peak_flops=1e12,
    peak_origin="hand-made",
    on_cpu=True,
    parts={"data": 0.02, "teacher": 0.06, "forward": 0.04, "backward": 0.06, "optimizer": 0.0178},
    top_ops=[],
    published_flops=10e9,
    ours=Way([0.2, 0.2, 0.2], [0.4, 0.4, 0.4], 5e9, 1.99, 8e9, 2e9),
    plain=Way([0.24, 0.22, 0.26], [0.4, 0.5, 0.5], 6e9, 1.98, 10e9, 2.4e9),
    same_mask_losses=(1.99, 1.99),
)


def test_rates_and_ratios_are_hand_numbers() -> None:
    lines = REPORT.text().splitlines()
    row = {line.split("  ")[0]: line.split() for line in lines}
    assert row["clips/s a device"][3:5] == ["20.00", "(20.00-20.00)"]
    assert row["TFLOP/s a device"][3] == "0.160"
    assert row["MFU, %"][2:] == ["16.0", "(16.0-16.0)", "16.7", "(15.4-18.2)"], "each by its own FLOPs"
    assert row["MFU without the teacher's FLOPs, %"][6:] == ["4.0", "(4.0-4.0)", "4.0", "(3.7-4.4)"]
    assert "1.200 (1.100-1.300) times as fast as the plain twin" in lines
    assert any(line.startswith("1.250 (1.000-1.250) times by core time") for line in lines)
    assert "FLOPs: 8.0 G a clip, as published 10.0 G: 20.0 % fewer by count" in lines


def test_a_task_without_a_teacher_has_no_row_for_the_rest() -> None:
    way = replace(REPORT.ours, student_flops=REPORT.ours.flops)
    lines = replace(REPORT, ours=way, plain=replace(way, flops=10e9, student_flops=10e9)).text()
    assert "without the teacher" in REPORT.text()
    assert "without the teacher" not in lines


def test_the_parts_and_what_is_in_none_are_the_step() -> None:
    lines = REPORT.text().splitlines()
    assert lines[-1] == "sum of parts 98.9 % of the step"
    rows = [line.rsplit(maxsplit=2) for line in lines[lines.index("") :] if line.startswith(("data", "in no part"))]
    assert rows == [["data", "20.00", "10.0"], ["in no part", "2.20", "1.1"]]
    assert "MORE THAN 3 %" in budget_line(0.96, 1.0)
    assert "MORE THAN 3 %" in budget_line(1.04, 1.0)


def test_a_report_and_a_failure_travel_between_processes(tmp_path: Path) -> None:
    for outcome in (REPORT, replace(REPORT, plain=None, same_mask_losses=None), "out of memory: 98 GB"):
        save_outcome(outcome, tmp_path / "outcome.json")
        assert load_outcome(tmp_path / "outcome.json") == outcome


def test_a_sweep_has_a_line_for_each_point_and_says_which_failed() -> None:
    text = sweep_text({"batch.micro=4": REPORT, "batch.micro=9": "out of memory", "batch.micro=2": REPORT})
    starts = [line.split()[0] for line in text.splitlines() if line.startswith("batch")]
    assert starts == ["batch.micro=4", "batch.micro=2", "batch.micro=9:"]


# ---------------------------------------------------------------- the command


def bench_step(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "umt_ds", "bench", "step", "demo/stage1", "--rounds", "1", "--steps", "1", *words]
    return subprocess.run(command, env=NO_VARIABLES, capture_output=True, text=True, timeout=300, check=False)


def test_the_command_measures_both_ways_and_traces_ours(tmp_path: Path) -> None:
    ended = bench_step("batch.micro=2", "--against", "plain", "--profile", str(tmp_path / "trace.json"))
    assert ended.returncode == 0, ended.stderr
    starts = {line.split("  ")[0].split(":")[0] for line in ended.stdout.splitlines()}
    assert {"command", "machine", "clips/s a device", "optimizer", "same weights, same draws"} <= starts
    assert "sum of parts " in ended.stdout
    assert "times as fast as the plain twin" in ended.stdout
    events = {event.get("name") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert {"teacher", "mask", "forward", "backward", "optimizer"} <= events


def test_a_point_that_runs_out_of_memory_is_reported_and_the_sweep_goes_on() -> None:
    ended = bench_step("--sweep", "batch.micro=1000000000,2")
    assert ended.returncode == 0, ended.stderr
    assert "batch.micro=1000000000: out of memory" in ended.stdout
    assert any(line.startswith("batch.micro=2 ") for line in ended.stdout.splitlines())
