"""What only a CUDA device can prove: keyed draws and models agree with the CPU, and a run trains and resumes there."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.ranks import call, run_ranks
from tests.support.shards import picture, record, write_shards
from tests.support.stage2_runs import stage2_run, write_for_stage2
from umt_ds.batch import Batch, Targets
from umt_ds.bench.step import Request, measure_step
from umt_ds.config.load import load_run
from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec
from umt_ds.data.on_device import OnDevice
from umt_ds.data.order.frames import FramePolicy
from umt_ds.engine.metrics_file import read_metrics
from umt_ds.kernels.philox import Purpose, uniform
from umt_ds.models.teachers import build_teacher
from umt_ds.tasks.recognition.classes import HeadClasses
from umt_ds.tasks.recognition.task import RecognitionTask

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def members(number: int) -> dict[str, bytes]:
    noise = np.random.default_rng(number).integers(0, 256, (10, 48, 64, 3), dtype=np.uint8)
    return {**record(number), **{f"{i:03d}.png": picture(image) for i, image in enumerate(noise)}}


def test_keyed_draws_are_the_same_bits_on_both_devices() -> None:
    slots = torch.arange(5)
    on_cpu = uniform(7, 3, slots, 197, Purpose.MASK)
    assert torch.equal(on_cpu, uniform(7, 3, slots.cuda(), 197, Purpose.MASK).cpu())


def test_views_are_erased_and_mixed_as_on_the_cpu_without_a_wait_of_the_host() -> None:
    overrides = [
        "task.encoder={preset: pocket, frames: 2, image_size: 32}", "batch.micro=16", "data.num_sample=1",
        "task.mixing={mixup: 0.8, cutmix: 1.0, prob: 1.0, switch: 0.5, group: 4}", "task.erasing=0.5", "task.classes=5",
    ]  # fmt: skip
    config, rows = load_run("demo/recognition", overrides).task, torch.arange(16)
    assert isinstance(config, RecognitionConfig)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (16, 2, 32, 32, 3), dtype=np.uint8))
    batch = Batch("video", pixels, rows, rows, ("a",) * 16, targets=Targets(labels=rows % 5))
    made = {}
    for device in ("cpu", "cuda"):
        task = RecognitionTask(config, HeadClasses(5), seed=1, device=torch.device(device))
        task.prepare(batch, 0)  # statistics are copied the first time
        torch.cuda.set_sync_debug_mode("error")
        try:
            made[device] = task.prepare(batch.pin_memory(), 1)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    on_cpu, on_gpu = made["cpu"], made["cuda"].pixels.cpu()
    torch.testing.assert_close(on_gpu, on_cpu.pixels, rtol=0, atol=1e-5)
    torch.testing.assert_close(made["cuda"].targets.cpu(), on_cpu.targets, rtol=0, atol=1e-6)
    assert on_cpu.digest is not None
    assert made["cuda"].digest.cpu() == on_cpu.digest


def test_the_teacher_says_the_same_on_both_devices() -> None:
    teacher = build_teacher(
        {
            "embed_dim": 16,
            "quick_gelu": True,
            "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 24, "layers": 3, "head_width": 8},
        },
        layers=2,
    )
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 2, 32, 32, 3), dtype=np.uint8))
    keep = torch.tensor([[0, 5, 17, 31], [2, 3, 16, 20]])
    on_cpu = teacher.attend(pixels).targets(keep)
    on_gpu = teacher.cuda().attend(pixels.cuda()).targets(keep.cuda()).cpu()
    torch.testing.assert_close(on_gpu, on_cpu, atol=2e-3, rtol=0)  # TF32 in matrix products


@pytest.mark.parametrize("on_device", ["nothing", "resize", "decode"])
def test_batches_are_pinned_and_a_gpu_finishes_them_as_the_workers_do(tmp_path: Path, on_device: OnDevice) -> None:
    """JPEGs of one colour: nvJPEG repeats chroma samples, so anything else could differ by more."""

    def flat(number: int) -> dict[str, bytes]:
        frame = np.full((256, 340, 3), (40 * number, 90, 160), np.uint8)
        return {f"{i:03d}.jpg": picture(frame, format="JPEG") for i in range(8)}

    def first_batch(**changes: Any) -> Batch:
        plan = LoaderPlan(seed=1, global_draws=4, micro=4, image_side=224, num_workers=1, **changes)
        specs = [SourceSpec("flat", tmp_path, FramePolicy("sparse", 4))]
        with closing(Loader(specs, plan, device=torch.device("cuda"))) as loader:
            return next(loader.micro_batches(0))

    write_shards(tmp_path, [4], members=flat)
    by_worker, by_gpu = first_batch(), first_batch(on_device=on_device)
    assert by_worker.pixels.is_pinned()
    assert by_gpu.pixels.is_cuda == (on_device != "nothing")
    assert (by_gpu.pixels.cpu().int() - by_worker.pixels.int()).abs().max() <= 2
    assert by_gpu.digest == by_worker.digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(tmp_path / "shards", (9, 9), members=members)
    return tmp_path


def training(folder: Path, run: str, *more: str, how: str = "train") -> dict[str, Any]:
    overrides = [
        f"run_dir={folder / run}", f"data.sources.demo.shards={folder / 'shards'}",
        "task.teacher.weights=random", "batch.global=8", "batch.micro=4", "schedule.steps=6",
        "schedule.warmup_steps=2", "cadence.log=1", "engine.deepspeed=zero1_bf16.json",
        "cadence.evaluate=0", "report.tensorboard=false", *more,
    ]  # fmt: skip
    return call(f"tests.distributed.calls:{how}", name="demo/stage1", overrides=overrides)


@pytest.mark.parametrize(
    "more", [[], ["optim.ema_decay=0.9"], ["engine.ahead=true"], ["engine.graph=true"], ["engine.compile=true"]]
)
def test_no_step_waits_for_the_host(folder: Path, more: list[str]) -> None:
    wanted = [training(folder, "run", "optim.clip_grad=0.05", *more, how="train_forbidding_waits")]
    assert run_ranks(1, wanted) == [[{"code": 0}]]


def test_working_ahead_and_replaying_a_graph_change_no_mask_and_the_losses_by_rounding(folder: Path) -> None:
    on_device = "data.augment.on_device=resize"
    ways = {
        "plain": (),
        "ahead": ("engine.ahead=true",),
        "graph": ("engine.graph=true", "engine.ahead=true"),
        "resize": (on_device,),
        "resize-ahead": (on_device, "engine.ahead=true"),
    }
    assert run_ranks(1, [training(folder, run, *more) for run, more in ways.items()]) == [[{"code": 0}] * len(ways)]
    for run, like in {"ahead": "plain", "graph": "plain", "resize-ahead": "resize"}.items():
        expected = read_metrics(folder / like)
        for step, told in read_metrics(folder / run).items():
            assert told["mask_digest_total"] == expected[step]["mask_digest_total"], f"{run}, step {step}"
            assert told["loss"] == pytest.approx(expected[step]["loss"], rel=1e-3)


def test_a_bf16_run_trains_stops_and_resumes_with_the_same_clips_and_masks(folder: Path) -> None:
    def train(run: str, *more: str) -> dict[str, Any]:
        return training(folder, run, *more)

    codes = run_ranks(1, [train("unbroken"), train("resumed", "stop_at=3"), train("resumed")])[0]
    assert codes == [{"code": 0}, {"code": 75}, {"code": 0}]
    unbroken, resumed = read_metrics(folder / "unbroken"), read_metrics(folder / "resumed")
    assert unbroken[6]["loss"] < unbroken[1]["loss"]
    for step in unbroken:
        for same in ("digest_total", "mask_digest_total"):
            assert unbroken[step][same] == resumed[step][same], f"step {step}: {same}"
        assert unbroken[step]["loss"] == pytest.approx(resumed[step]["loss"], rel=1e-3)


@pytest.mark.parametrize(
    "more", [[], ["batch.media=packed", "batch.pack=3"], ["batch.split_contrastive=true", "batch.micro=3"]]
)
def test_no_step_of_stage_2_waits_for_the_host(folder: Path, more: list[str]) -> None:
    write_for_stage2(folder)
    wanted = stage2_run(folder, "run", "engine.deepspeed=zero1_bf16.json", "batch.micro=12", *more)
    done = call("tests.distributed.calls:train_forbidding_waits", name="demo/stage2", overrides=wanted)
    assert run_ranks(1, [done]) == [[{"code": 0}]]


def test_a_measured_step_has_its_parts_and_its_twin_on_the_device() -> None:
    told = run_ranks(1, [call("tests.gpu.test_cuda:measured_step")])[0][0]
    assert {"host_to_device", "teacher", "mask", "forward", "backward", "optimizer"} <= told["parts"].keys()
    assert all(seconds >= 0 for seconds in told["parts"].values())
    assert sum(told["parts"].values()) == pytest.approx(told["ours"]["step_s"][0], rel=0.2), "most of a small step"
    ours, reference = told["same_mask_losses"]
    assert ours == pytest.approx(reference, abs=1e-2), "our teacher is bf16"
    assert told["ours"]["memory"] > 0
    assert told["plain"]["memory"] > 0


def measured_step() -> dict[str, Any]:
    overrides = ["engine.deepspeed=zero1_bf16.json", "task.teacher.weights=random", "batch.micro=8"]
    return asdict(measure_step("demo/stage1", overrides, Request(rounds=1, steps=3, against_plain=True)))
