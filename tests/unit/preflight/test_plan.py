"""What `umt plan` counts, against the modules themselves, the paper and hand numbers; and what it refuses."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.support.shards import png_frames, write_shards
from umt_ds.bench.rate import measure_loader
from umt_ds.cli.plan import command
from umt_ds.config.load import load_run, run_names
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.stage2 import Stage2Config
from umt_ds.data.shards.source import ShardSource
from umt_ds.engine.memory import state_bytes
from umt_ds.errors import ConfigError
from umt_ds.models.alignment import AlignmentModel
from umt_ds.models.memory import student_bytes_per_clip
from umt_ds.models.presets import StudentPreset, vit_size
from umt_ds.models.vit import VideoViT
from umt_ds.preflight.plan import JobPlan, Request, plan_job
from umt_ds.preflight.plan_text import plan_text
from umt_ds.tasks.kinds import build_task, cost_of
from umt_ds.tasks.sources import media_shares
from umt_ds.tasks.stage2.cost import on_meta
from umt_ds.tasks.stage2.model import media_masks

PAPER = Request(gpus=32, kind="a100", samples=658_000)
K710 = 658_000


def recipe(name: str, *overrides: str) -> RunConfig:
    """A shipped run whose data and weights are not here."""
    return load_run(name, overrides, keep_unset=True)


def plan(name: str, *overrides: str, request: Request = PAPER) -> JobPlan:
    return plan_job(recipe(name, *overrides), request, say=lambda text: None)


# ---------------------------------------------------------------- counts


@pytest.mark.parametrize("name", ["demo/stage1", "demo/teacher", "demo/stage2", "demo/recognition"])
def test_the_cost_of_a_task_is_what_the_task_itself_has_and_counts(name: str, tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    sources = "data.sources={clips: {shards: a, weight: 1}, pictures: {shards: b, weight: 3, media: image}}"
    more = {
        "demo/stage1": ["task.teacher.weights=random"],
        "demo/stage2": ["task.teacher.weights=random", f"task.text.vocabulary={vocabulary}", sources],
        "demo/recognition": ["task.classes=8"],
    }
    config = load_run(name, more.get(name, []))
    task = build_task(config, device=torch.device("cpu"), precision="fp32")
    cost = cost_of(config, "fp32", shares=media_shares(config))
    assert cost.parameters == sum(p.numel() for p in task.module.parameters())
    assert cost.flops == task.flops_per_view


@pytest.mark.parametrize(("name", "hours", "mfu", "giga"), [("b16", 60, 0.029, 471.0), ("l16", 90, 0.066, 1623.1)])
def test_the_paper_s_hours_mean_the_mfu_that_peers_derives(name: str, hours: int, mfu: float, giga: float) -> None:
    made = plan(f"stage1/{name}_k710")
    assert made.cost.published_flops / 1e9 == pytest.approx(giga, rel=5e-3)
    assert made.paper_mfu == pytest.approx(mfu, abs=5e-4)
    # and at that MFU, with the published arithmetic, the plan takes as long as the paper
    slow = replace(made, request=replace(PAPER, mfu=mfu), cost=replace(made.cost, teacher_flops=0.0,
                   student_flops=made.cost.published_flops))  # fmt: skip
    assert slow.hours == pytest.approx(hours, rel=0.02)


@pytest.mark.parametrize(("name", "hours", "parameters"), [("b16", 24, 205_402_429), ("l16", 40, 665_561_917)])
def test_stage_2_is_planned_from_its_sizes_alone(name: str, hours: int, parameters: int) -> None:
    """METHOD.md, "Stage 2: model", "Optimisation: stage 2"."""
    made = plan(f"stage2/{name}_25m", request=replace(PAPER, samples=25_680_000))
    assert made.cost.parameters == parameters
    assert (made.run.micro, made.run.chunk, made.run.accumulation) == (128, 128, 1)
    text = plan_text(made)
    assert f"{hours} h on 32 A100" in text
    assert "as many images as clips: the sources are not here" in text
    assert "98 of 196 tokens visible" in text
    assert "160 of 784 tokens visible" in text


@pytest.mark.parametrize(
    ("name", "giga", "million"),
    [("b16_k400", 180, 87), ("l16_k400", 596, 304), ("l16_k400_f16", 1434, 304), ("b16_mit_384", 786, 87),
     ("l16_mit_384", 2440, 304)],
)  # fmt: skip
def test_recognition_costs_what_tables_6_and_8_of_the_paper_say(name: str, giga: float, million: float) -> None:
    """They count a multiply-add once, and the forward pass of one view."""
    made = plan(f"recognition/{name}", request=Request(gpus=16, kind="a100", samples=240_436))
    assert made.cost.forward_flops / 2e9 == pytest.approx(giga, rel=0.01)
    assert made.cost.parameters / 1e6 == pytest.approx(million, rel=0.02)
    text = plan_text(made)
    assert "teacher" not in text, "it has none"
    assert f"{made.config.data.num_sample} views of each" in text or made.config.data.num_sample == 1
    assert made.run.accumulation == 1


def test_masks_save_three_quarters_of_the_memory_that_table_5_of_the_paper_tells() -> None:
    """56.6 GB without masks and 18.6 GB with them, B/16 at 128 clips a GPU: 3.04 times."""
    masked = cost_of(recipe("stage2/b16_5m"), "bf16").activation_bytes
    whole = cost_of(recipe("stage2/b16_5m", "task.loss_weights.uta=0"), "bf16").activation_bytes
    assert whole / masked > 3


@pytest.mark.parametrize("name", [name for name in run_names() if name.startswith("stage2/ablations/")])
def test_every_ablation_is_a_model_that_can_be_built(name: str) -> None:
    config = recipe(name).task
    assert isinstance(config, Stage2Config)
    module, teacher = on_meta(config)
    masks = media_masks(config, teacher)
    assert (teacher is None) == (name.rpartition("/")[2] in ("without_uta", "random_mask", "extra_unmasked"))
    unmasked = ("without_uta", "extra_unmasked")
    assert all((mask is None) == name.endswith(unmasked) for mask in masks.values())
    assert len(module.vision_encoder.clip_decoder) == (0 if teacher is None else 6)


def test_steps_and_checkpoint_of_the_paper_s_run() -> None:
    made = plan("stage1/b16_k710")
    assert (made.run.steps_per_epoch, made.run.total_steps, made.run.accumulation) == (321, 64_200, 1)
    student_and_decoders = 85_637_376 + 6 * (768 * 512 + 512 + 2 * 512)
    assert made.checkpoint_bytes == 12 * student_and_decoders


# ---------------------------------------------------------------- memory


def test_bytes_of_a_parameter_by_zero_stage() -> None:
    """bf16 weight and gradient 2 + 2, fp32 weight and two moments 12; stage 3 gathers the weights while it computes."""
    state = [state_bytes(1000, stage=s, world=10, precision="bf16", settings={}) for s in range(4)]
    assert [(s.weights, s.gradients, s.optimizer) for s in state] == [
        (2000, 2000, 12_000),
        (2000, 2000, 1200),
        (2000, 200, 1200),
        (2000 + 200, 200, 1200),
    ]
    assert [s.buffers for s in state] == [0, 1_000_000_000, 1_000_000_000, 1_000_000_000]
    assert state_bytes(1000, stage=0, world=10, precision="fp32", settings={}).total == 16_000


def test_an_average_of_the_weights_is_four_bytes_a_parameter_more_where_the_moments_are_and_in_a_checkpoint() -> None:
    for stage, devices in ((0, 1), (1, 10), (2, 10), (3, 10)):
        without, averaged = (
            state_bytes(1000, stage=stage, world=10, precision="bf16", settings={}, averaged=averaged)
            for averaged in (False, True)
        )
        assert averaged.optimizer - without.optimizer == 4 * 1000 // devices
        assert averaged.total - without.total == 4 * 1000 // devices
    made, averaged = plan("stage1/b16_k710"), plan("stage1/b16_k710", "optim.ema_decay=0.9999")
    assert averaged.checkpoint_bytes == made.checkpoint_bytes // 3 * 4
    assert averaged.memory[0].state.optimizer == made.memory[0].state.optimizer // 3 * 4  # fp32 weights and moments


def test_what_the_deepspeed_json_says_of_buckets_and_offload_is_counted() -> None:
    zero = {"reduce_bucket_size": 500, "overlap_comm": True, "offload_optimizer": {"device": "cpu"}}
    state = state_bytes(1000, stage=2, world=10, precision="bf16", settings={"zero_optimization": zero})
    assert (state.optimizer, state.buffers) == (0, 2 * 500 * 2)


@pytest.mark.parametrize("checkpoint_blocks", [0, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("preset", "out_width"), [("tiny", 512), ("pocket", 64)])
def test_the_activations_are_those_that_autograd_keeps(
    preset: StudentPreset, out_width: int, dtype: torch.dtype, checkpoint_blocks: int
) -> None:
    size, visible = vit_size(preset), 160
    encoder = VideoViT(size, checkpoint_blocks=checkpoint_blocks, drop_path=0.1)
    model = AlignmentModel(encoder, out_width=out_width, layers=3).to(dtype)
    encoder_bytes, loss_bytes = bytes_kept(model, frames=4, visible=visible)
    estimate = student_bytes_per_clip(
        size,
        visible=visible,
        layers=3,
        out_width=out_width,
        element=dtype.itemsize,
        checkpoint_blocks=checkpoint_blocks,
    )
    if checkpoint_blocks:  # the one block that is whole again in the backward
        estimate -= 16 * visible * size.width * dtype.itemsize
    assert estimate == pytest.approx(encoder_bytes + loss_bytes, rel=0.05)


def bytes_kept(model: AlignmentModel, *, frames: int, visible: int) -> tuple[int, int]:
    """What autograd keeps of one clip for the backward: by the encoder with its taps, and by decoders and loss."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def total() -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    size = model.encoder.size
    side = 14 * size.patch
    pixels = torch.randint(0, 255, (1, frames, side, side, 3), dtype=torch.uint8)
    keep = torch.arange(visible)[None] * (196 * frames // visible)
    targets = tuple(torch.randn(len(model.taps), 1, visible, model.clip_decoder[0].head.out_features))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = model.encode(pixels, keep, torch.rand(size.depth, 2, 1))
        of_encoder = total()
        model.distance(output, pixels, keep, targets)
    return of_encoder, total() - of_encoder


def test_six_decoders_and_their_loss_keep_little_beside_the_encoder() -> None:
    """B/16 as in the paper; the published step stacks all features, their unit vectors and the targets."""
    model = AlignmentModel(VideoViT(vit_size("vit_b16"), drop_path=0.1), out_width=512, layers=6)
    of_encoder, of_loss = bytes_kept(model, frames=1, visible=40)
    assert of_loss < 0.12 * of_encoder


# ---------------------------------------------------------------- refusals


def test_a_run_that_does_not_fit_is_refused_with_a_batch_that_does() -> None:
    with pytest.raises(ConfigError, match=r"does not fit: .* of 80 GB on each h100") as refused:
        plan("stage1/l16_k710", "batch.micro=512", request=Request(4, "h100", samples=K710))
    assert refused.value.hint is not None
    assert "batch.micro=256 fits" in refused.value.hint
    plan("stage1/l16_k710", "batch.micro=256", request=Request(4, "h100", samples=K710))
    plan("stage1/l16_k710", "batch.micro=512", "task.student.checkpoint_blocks=24",
         request=Request(4, "h100", samples=K710))  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stage1/b16_k710", "--gpus", "24", "--samples", "658000"], "not a multiple of micro × world = 64 × 24"),
        (["stage1/b16_k710", "--samples", "1000"], "an epoch has no step"),
        (["stage1/b16_k710"], "--samples"),
        (["zero_shot/msrvtt/b16", "--samples", "1000"], "umt eval NAME --dry-run"),
        (["stage1/b16_k710", "task.teacher.image_size=448", "--samples", "658000"], "see different grids"),
    ],
)
def test_an_impossible_run_is_a_configuration_error(arguments: list[str], said: str) -> None:
    error = CliRunner().invoke(command, arguments).exception
    assert isinstance(error, ConfigError)
    assert error.exit_code == 2
    assert said in str(error)


# ---------------------------------------------------------------- loader and text


def test_the_loader_is_measured_on_the_run_s_own_shards(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards", members=lambda number: png_frames(number, num_frames=16))
    config = load_run("demo/stage1", ["task.teacher.weights=random", f"data.sources.demo.shards={folder}"])
    began = time.perf_counter()
    rate = measure_loader(config, seconds=0.3)
    elapsed_s = time.perf_counter() - began
    source = ShardSource(folder)
    pictures = [m.size for m in source.members(source.ref(0)) if m.suffix.endswith(".png")]
    assert rate.bytes_per_clip == pytest.approx(sum(pictures) / 2, rel=0.1), "8 of 16 frames"
    clips = int(rate.origin.split()[3].replace(",", ""))
    assert clips > 0
    assert rate.clips_per_core_s > clips / (elapsed_s * (os.cpu_count() or 1)), "no core works longer than the clock"
    made = plan_job(config, Request(2, "h100", measure=False), say=lambda text: None)
    assert (made.samples, made.loader.origin) == (15, "assumed")


def test_a_core_is_assumed_to_make_fewer_clips_where_it_resizes_without_antialias() -> None:
    smooth, plain, on_device = (
        plan("stage1/b16_k710", f"data.augment.antialias={a}", f"data.augment.on_device={d}").loader.clips_per_core_s
        for a, d in (("true", "nothing"), ("false", "nothing"), ("false", "resize"))
    )
    assert plain < smooth == on_device


def test_too_few_cores_make_the_loader_set_the_pace() -> None:
    rich, poor = plan("stage1/b16_k710"), plan("stage1/b16_k710", request=replace(PAPER, cores_per_gpu=1))
    assert not rich.is_bound_by_loader
    assert poor.is_bound_by_loader
    assert poor.step_s == pytest.approx(2048 / 32 / poor.loader.clips_per_core_s)
    assert "TOO FEW" in plan_text(poor)


def test_evaluations_are_planned_as_a_part_of_the_time(tmp_path: Path) -> None:
    """Clips: of each set the first `limit`. Pace: forward through all tokens, at the MFU of the plan."""
    held_out = write_shards(tmp_path / "val", [3, 4])
    knn = f"evaluation.knn={{kind: knn, shards: {held_out}, limit: 1000}}"
    unknown = f"evaluation.all={{kind: knn, shards: {tmp_path}/nope, limit: null}}"
    planned = plan("stage1/b16_k710", knn, unknown, "cadence.evaluate=500", request=replace(PAPER, measure=False))
    rate = 32 * 312e12 * 0.25 / planned.cost.evaluation_flops
    assert planned.cost.evaluation_flops > 4 * planned.cost.forward_flops  # 1568 tokens instead of 320
    seconds = (7 + 1000) / rate
    share = seconds / (seconds + 500 * planned.step_s)
    assert f"knn: 1,007 clips in {seconds:.1f} s after every 500 steps: {share:.2%} of the time" in plan_text(planned)
    assert "all: of unknown size, its shards are not here and evaluation.all.limit is null" in plan_text(planned)
    assert "only by `umt eval`" in plan_text(plan("stage1/b16_k710", knn, request=replace(PAPER, measure=False)))


def test_re_ranking_is_planned_as_a_second_look_and_pairs(tmp_path: Path) -> None:
    held_out = write_shards(tmp_path / "val", [3, 4])
    val = f"evaluation.val={{kind: retrieval, shards: {held_out}, rerank: {{candidates: 5}}}}"
    request = replace(PAPER, samples=25_680_000, measure=False)
    planned = plan("stage2/b16_5m", "evaluation=null", "cadence.evaluate=5", val, request=request)
    cost = planned.cost
    # three layers on 32 tokens of a text that look at 4 x 196 of a clip, by hand
    layer = 8 * 32 * 768**2 + 4 * 32 * 768 * 3072 + 4 * 32**2 * 768 + 4 * 32 * 768**2 + 4 * 32 * 784 * 768
    assert cost.match_flops == 3 * layer
    seconds = (2 * 7 * cost.evaluation_flops + 7 * 10 * cost.match_flops) / (32 * 312e12 * 0.25)
    assert f"val: 7 clips, read twice, and up to 70 pairs in {seconds:.1f} s" in plan_text(planned)


def test_the_evaluation_of_a_classifier_takes_as_long_as_all_its_views(tmp_path: Path) -> None:
    held_out = write_shards(tmp_path / "val", [3, 4])
    val = f"evaluation.val={{kind: classification, shards: {held_out}, segments: 4, crops: 3}}"
    words = (
        "recognition/b16_k710",
        "task.classes=710",
        "evaluation=null",
        "cadence.keep_best=null",
        "cadence.evaluate=500",
        val,
    )
    planned = plan(*words, request=replace(PAPER, gpus=16, measure=False))
    seconds = 7 * 12 * planned.cost.evaluation_flops / (16 * 312e12 * 0.25)
    assert f"val: 7 clips x 12 views in {seconds:.1f} s after every 500 steps" in plan_text(planned)


def test_the_command_prints_the_paper_s_run_beside_the_plan_and_its_assumptions() -> None:
    shown = CliRunner().invoke(command, ["stage1/l16_k710", "--gpus", "32", "--gpu", "a100", "--samples", "658000"])
    assert shown.exit_code == 0, shown.exception
    for words in ("64,200", "307,806,720 trained", "ZeRO 1*", "1,623 GFLOP", "90 h on 32 A100 = 2,880 GPU-hours",
                  "6.6% MFU", "25.0% MFU (--mfu): a guess"):  # fmt: skip
        assert words in shown.stdout


def test_a_plan_counts_views_where_a_clip_is_shown_in_several() -> None:
    words = ["recognition/b16_k400", "--gpus", "16", "--samples", "240436", "task.encoder.preset=pocket"]
    shown = CliRunner().invoke(command, words)
    assert shown.exit_code == 0, shown.exception
    assert "GFLOP a view: " in shown.stdout
    assert " views/s a GPU, " in shown.stdout
    once = CliRunner().invoke(command, [*words, "data.num_sample=1", "task.mixing.group=16"])
    assert "GFLOP a clip: " in once.stdout
    assert " clips/s a GPU, " in once.stdout
