"""`umt train` whole, on small shards: resume bit for bit, other world sizes and ZeRO stages, every ds_config."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.calls import HostReads
from tests.support.ranks import REPO, call, run_ranks
from tests.support.shards import picture, record, write_shards
from tests.support.stage2_runs import stage2_run, write_for_stage2
from umt_ds.engine.manifest import read_checkpoint_manifest
from umt_ds.engine.metrics_file import METRICS, read_metrics, read_scores

STEPS, STOP = 6, 3
UNSYNCED = [(0, "cpu.json"), (1, "zero1_bf16.json"), (2, "cpu.json")]  # stage and precision, with clipping
DS_CONFIGS = sorted(path.name for path in (REPO / "ds_configs").glob("*.json"))


def members(number: int) -> dict[str, bytes]:
    noise = np.random.default_rng(number).integers(0, 256, (10, 48, 64, 3), dtype=np.uint8)
    return {**record(number), **{f"{i:03d}.png": picture(image) for i, image in enumerate(noise)}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_shards(folder / "shards", (9, 9, 9), members=members)
    write_for_stage2(folder)
    return folder


def overrides(folder: Path, run: str, *more: str) -> list[str]:
    """demo/stage1 with a random teacher, drop path on, weights averaged, a few steps; micro 2 fits 1, 2 and 3 ranks."""
    return [
        f"run_dir={folder / run}", f"data.sources.demo.shards={folder / 'shards'}", "task.teacher.weights=random",
        "task.student.drop_path=0.2", "data.workers=1", "batch.global=12", "batch.micro=2", "optim.clip_grad=0.05",
        "optim.ema_decay=0.5",
        f"schedule.steps={STEPS}", "schedule.warmup_steps=2", "cadence.log=1", "cadence.save=2",
        "cadence.evaluate=0", "report.tensorboard=false", *more,
    ]  # fmt: skip


ZERO3 = "engine.deepspeed_set={zero_optimization.stage: 3}"
JUDGE_AVERAGE = "evaluation={mean: {kind: knn, shards: none, ema: true}}"  # which `train_evaluated` makes
STAGE2: dict[str, tuple[str, ...]] = {
    "unbroken": ("s2-unbroken",),
    "stopped": ("s2-resumed", f"stop_at={STOP}"),
    "resumed": ("s2-resumed",),
    "split": ("s2-split", "batch.split_contrastive=true", "batch.micro=2"),
    "packed": ("s2-packed", "batch.media=packed", "batch.pack=3", "engine.deepspeed=zero2_bf16.json"),
    "zero3": ("s2-zero3", "engine.deepspeed=zero3_bf16.json", "schedule.steps=3"),
    "vtm alone": (
        "s2-vtm", "task.loss_weights={vtc: 0, vtm: 1, mlm: 0, uta: 0}", "schedule.steps=3", "batch.media=packed",
        "batch.pack=3",
    ),
    "nothing local": ("s2-global", "task.vtm.negatives=global", "task.mlm.mean=global", "task.text.dropout=0"),
}  # fmt: skip


def train(folder: Path, run: str, *more: str) -> dict[str, Any]:
    return call("tests.distributed.calls:train", name="demo/stage1", overrides=overrides(folder, run, *more))


def assert_same_run(one: Path, two: Path, *, rtol: float | None) -> None:
    """Same steps, clips and masks; losses and norms equal bit for bit (rtol None) or to rounding."""
    a, b = read_metrics(one), read_metrics(two)
    assert sorted(a) == sorted(b) == list(range(1, STEPS + 1))
    for step in a:
        for exact in ("draws", "digest", "digest_total", "mask_digest_total", "lr"):
            assert a[step][exact] == b[step][exact], f"step {step}: {exact}"
        for number in ("loss", "grad_norm"):
            if rtol is None:
                assert a[step][number] == b[step][number], f"step {step}: {number}"
            else:
                assert a[step][number] == pytest.approx(b[step][number], rel=rtol), f"step {step}: {number}"


def stored(run: Path) -> dict[str, torch.Tensor]:
    from umt_ds.engine.checkpoint_files import read_tensors

    newest = run / "checkpoints" / f"step-{STEPS:08d}"
    kinds = read_checkpoint_manifest(newest).kinds
    return {f"{kind} {name}": tensor for kind in kinds for name, tensor in read_tensors(newest, kind)}


@pytest.fixture(scope="module")
def two_ranks(folder: Path) -> dict[str, list[Any]]:
    """One launch: an unbroken run, one that stops and resumes, and three steps with each ds_config."""
    calls = {
        "unbroken": train(folder, "unbroken"),
        "stopped": train(folder, "resumed", f"stop_at={STOP}"),
        "resumed": train(folder, "resumed"),
        "ahead": train(folder, "ahead", "engine.ahead=true", f"stop_at={STOP}"),
        "resumed ahead": train(folder, "ahead", "engine.ahead=true"),
        "written at once": train(folder, "at-once", "cadence.async_save=false"),
        "before the full disk": train(folder, "full-disk", "stop_at=2"),
        "full disk": call(
            "tests.distributed.calls:train_with_small_files",
            name="demo/stage1",
            overrides=overrides(folder, "full-disk"),
            rank=1,
            limit=1 << 20,  # enough for batches in shared memory, too little for a share of the weights
        ),
        "after the full disk": train(folder, "full-disk"),
        "from weights": call(
            "tests.distributed.calls:train_evaluated",
            name="demo/stage1",
            overrides=overrides(
                folder,
                "from-weights",
                f"init.weights={folder / 'unbroken'}",
                "init.ema=true",
                "schedule.steps=3",
                "cadence.evaluate=9",
            ),
        ),
        "continued": train(folder, "continued", f"init.resume_from={folder / 'unbroken'}"),
        "evaluated": call(
            "tests.distributed.calls:train_evaluated",
            name="demo/stage1",
            overrides=overrides(folder, "evaluated", "cadence.evaluate=4", "engine.ahead=true", JUDGE_AVERAGE),
        ),
        **{
            f"{again}diverging {stage}": train(
                folder,
                f"diverging-{stage}",
                "optim.lr=1e30",
                "optim.clip_grad=null",
                "schedule.warmup_steps=3",
                f"engine.deepspeed_set={{zero_optimization.stage: {stage}}}",
                "cadence.save=1",
                "cadence.log=3",
            )
            for again in ("", "again ")
            for stage in (0, 1)
        },
        **{
            f"host reads {stage} {name}": call(
                "tests.distributed.calls:host_reads",
                name="demo/stage1",
                overrides=overrides(
                    folder,
                    f"reads-{stage}",
                    "schedule.steps=3",
                    f"engine.deepspeed={name}",
                    f"engine.deepspeed_set={{zero_optimization.stage: {stage}}}",
                ),
            )
            for stage, name in UNSYNCED
        },
        **{
            name: train(folder, f"ds-{name}", f"engine.deepspeed={name}", "schedule.steps=3", "cadence.save=100")
            for name in DS_CONFIGS
        },
        **{
            f"stage2 {name}": call(
                "tests.distributed.calls:train", name="demo/stage2", overrides=stage2_run(folder, *more)
            )
            for name, more in STAGE2.items()
        },
        "stage2 host reads": call(
            "tests.distributed.calls:host_reads",
            name="demo/stage2",
            overrides=stage2_run(folder, "s2-reads", "schedule.steps=3"),
        ),
        # last: at ZeRO 3 DeepSpeed puts a linear of its own in the place of torch's, for the rest of the process
        "plain at zero 3": train(folder, "plain-3", ZERO3),
        "evaluated at zero 3": call(
            "tests.distributed.calls:train_evaluated",
            name="demo/stage1",
            overrides=overrides(folder, "evaluated-3", "cadence.evaluate=2", ZERO3, JUDGE_AVERAGE),
        ),
    }
    by_rank = run_ranks(2, list(calls.values()))
    return dict(zip(calls, zip(*by_rank, strict=True), strict=True))


def test_a_stopped_run_ends_with_75_on_every_rank_and_a_finished_one_with_0(two_ranks: dict[str, list[Any]]) -> None:
    assert two_ranks["stopped"] == ({"code": 75}, {"code": 75})
    assert two_ranks["resumed"] == two_ranks["unbroken"] == ({"code": 0}, {"code": 0})


def test_a_resumed_run_is_the_unbroken_run_bit_for_bit(folder: Path, two_ranks: dict[str, list[Any]]) -> None:
    assert_same_run(folder / "unbroken", folder / "resumed", rtol=None)
    a, b = stored(folder / "unbroken"), stored(folder / "resumed")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert {r["attempt"] for r in read_metrics(folder / "resumed").values()} == {1, 2}


def test_a_teacher_that_works_ahead_changes_nothing(folder: Path, two_ranks: dict[str, list[Any]]) -> None:
    assert two_ranks["ahead"] == ({"code": 75}, {"code": 75})
    assert two_ranks["resumed ahead"] == ({"code": 0}, {"code": 0})
    assert_same_run(folder / "unbroken", folder / "ahead", rtol=None)


def test_a_snapshot_written_beside_training_has_the_bytes_of_a_save_that_held_it(
    folder: Path, two_ranks: dict[str, list[Any]]
) -> None:
    assert two_ranks["written at once"] == ({"code": 0}, {"code": 0})
    for step in (2, 4, 6):
        beside, held = (
            read_checkpoint_manifest(folder / run / "checkpoints" / f"step-{step:08d}")
            for run in ("unbroken", "at-once")
        )
        assert len(beside.files) == 8, "four kinds of state from each of two ranks"
        assert beside.files == held.files
        assert beside.progress == held.progress
    assert "saved step-00000004: 0.02 GB in " in (folder / "unbroken" / "log.txt").read_text()


def test_a_disk_that_is_full_for_one_rank_ends_all_with_1_and_costs_the_steps_since_the_last_save(
    folder: Path, two_ranks: dict[str, list[Any]]
) -> None:
    """The writing thread of rank 1 fails; all ranks hear of it at the end of a later step."""
    assert two_ranks["full disk"] == ({"code": 1}, {"code": 1})
    told = (folder / "full-disk" / "log.txt").read_text()
    assert "checkpoint step-00000004 was not written (another rank failed)" in told
    assert f"last good checkpoint: {folder / 'full-disk' / 'checkpoints' / 'step-00000002'}" in told
    assert "free some space and start the same command again" in told
    assert two_ranks["after the full disk"] == ({"code": 0}, {"code": 0})
    assert_same_run(folder / "unbroken", folder / "full-disk", rtol=None)


@pytest.mark.parametrize(
    ("run", "plain", "steps"),
    [
        ("evaluated", "unbroken", [4, 6]),
        ("evaluated-3", "plain-3", [2, 4, 6]),
    ],
)
def test_a_run_that_is_evaluated_is_the_run_that_is_not_bit_for_bit(
    run: str, plain: str, steps: list[int], folder: Path, two_ranks: dict[str, list[Any]]
) -> None:
    assert_same_run(folder / plain, folder / run, rtol=None)
    a, b = stored(folder / plain), stored(folder / run)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    scores = list(read_scores(folder / run / METRICS))
    assert [(found.step, found.items) for found in scores] == [(step, 4) for step in steps]
    assert len({found.values["feature"] for found in scores}) == len(steps), "each of the weights of its step"
    assert {found.protocol["weights"] for found in scores} == {"averaged (decay 0.5)"}


def test_scores_do_not_depend_on_how_weights_are_sharded(folder: Path, two_ranks: dict[str, list[Any]]) -> None:
    at_stage = [
        {found.step: found.values["feature"] for found in read_scores(folder / run / METRICS)}
        for run in ("evaluated", "evaluated-3")
    ]
    for step in (4, 6):
        assert at_stage[0][step] == pytest.approx(at_stage[1][step], rel=1e-4)


def test_init_weights_starts_a_new_run_from_old_weights(folder: Path, two_ranks: dict[str, list[Any]]) -> None:
    assert two_ranks["from weights"] == ({"code": 0}, {"code": 0})
    assert "starting at step 0 with averaged weights from" in (folder / "from-weights" / "log.txt").read_text()
    fresh, warm = read_metrics(folder / "unbroken")[1], read_metrics(folder / "from-weights")[1]
    assert warm["digest"] == fresh["digest"]
    assert warm["loss"] < fresh["loss"] - 0.1


def test_weights_that_a_run_starts_from_score_before_step_0_what_they_scored_where_they_were_made(
    folder: Path, two_ranks: dict[str, list[Any]]
) -> None:
    there, here = (
        {found.step: found.values["feature"] for found in read_scores(folder / run / METRICS)}
        for run in ("evaluated", "from-weights")
    )
    assert sorted(here) == [0, 3]
    assert here[0] == there[STEPS]


def test_resume_from_a_finished_run_has_nothing_left_to_do(folder: Path, two_ranks: dict[str, list[Any]]) -> None:
    assert two_ranks["continued"] == ({"code": 0}, {"code": 0})
    assert f"continuing {folder / 'unbroken'} at step {STEPS}" in (folder / "continued" / "log.txt").read_text()
    assert read_metrics(folder / "continued") == {}


@pytest.mark.parametrize("stage", [0, 1])
def test_a_run_that_becomes_nan_names_the_step_keeps_only_finite_weights_and_is_tried_once_more(
    stage: int, folder: Path, two_ranks: dict[str, list[Any]]
) -> None:
    assert two_ranks[f"diverging {stage}"] == ({"code": 75}, {"code": 75})
    assert two_ranks[f"again diverging {stage}"] == ({"code": 1}, {"code": 1})
    run = folder / f"diverging-{stage}"
    # step 0 has learning rate 0, step 1 half of 1e30, so step 2 is the first to see it
    first, second = (run / "log.txt").read_text().split("resuming this run at step 2")
    assert "NaN or infinite in step 2 (draws 24 to 35); nothing was saved after it\n" in first
    assert "NaN or infinite in step 2 (draws 24 to 35); nothing was saved after it; the second time" in second
    assert "data.skip_draws=[[24,36]]" in second
    kept = sorted(path.name for path in (run / "checkpoints").iterdir() if path.is_dir())
    assert kept == ["step-00000001", "step-00000002"]
    weights = (run / "checkpoints" / "step-00000001").glob("weight-*.safetensors")
    assert all(torch.isfinite(t).all() for path in weights for t in load_file(path).values())


@pytest.mark.parametrize(("stage", "name"), UNSYNCED)
def test_a_step_reads_nothing_for_which_a_host_would_wait(
    stage: int, name: str, two_ranks: dict[str, list[Any]]
) -> None:
    """On a CPU nobody waits, but what is read can be counted. (`tests/gpu` holds it against a real device.)"""
    with HostReads() as reads:
        _ = torch.ones(3)[torch.tensor([True, False, True])].sum().item()
    assert [seen.partition(" ")[0] for seen in reads.seen] == ["lift_fresh", "index", "_local_scalar_dense"]
    for told in two_ranks[f"host reads {stage} {name}"]:
        assert told["code"] == 0
        constants, *later_steps = told["seen"]  # tables and pixel statistics are copied once
        assert {seen.partition(" ")[0] for seen in constants} <= {"lift_fresh"}
        assert later_steps == [[], []]


def test_the_teacher_is_in_no_checkpoint(folder: Path, two_ranks: dict[str, list[Any]]) -> None:
    names = {name.split()[1].split(".")[0] for name in stored(folder / "unbroken")}
    assert names == {"encoder", "clip_decoder"}


@pytest.mark.parametrize("name", DS_CONFIGS)
def test_every_ds_config_trains_three_steps(name: str, folder: Path, two_ranks: dict[str, list[Any]]) -> None:
    assert two_ranks[name] == ({"code": 0}, {"code": 0})
    losses = [record["loss"] for record in read_metrics(folder / f"ds-{name}").values()]
    assert len(losses) == 3
    assert losses[2] < losses[0]  # at 3 steps of this recipe the loss has fallen from 1.97


@pytest.mark.parametrize(("world", "stage"), [(1, 3), (3, 2)])
def test_another_world_and_stage_see_the_same_clips_and_masks_and_the_same_losses_to_rounding(
    world: int, stage: int, folder: Path, two_ranks: dict[str, list[Any]]
) -> None:
    run = folder / f"elastic-{world}"
    shutil.copytree(folder / "resumed", run)
    for late in (run / "checkpoints").glob("step-*"):  # back to where it stopped
        if int(late.name[5:]) > STOP:
            shutil.rmtree(late)
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for s, r in read_metrics(folder / "resumed").items() if s <= STOP)
    )
    more = [f"engine.deepspeed_set={{zero_optimization.stage: {stage}}}", "data.workers=2"]
    results = run_ranks(world, [train(folder, run.name, *more)])
    assert results == [[{"code": 0}]] * world
    assert_same_run(folder / "unbroken", run, rtol=1e-5)


# ---------------------------------------------------------------- stage 2


def test_stage_2_resumes_bit_for_bit(folder: Path, two_ranks: dict[str, list[Any]]) -> None:
    assert two_ranks["stage2 stopped"] == ({"code": 75}, {"code": 75})
    assert two_ranks["stage2 resumed"] == two_ranks["stage2 unbroken"] == ({"code": 0}, {"code": 0})
    assert_same_run(folder / "s2-unbroken", folder / "s2-resumed", rtol=None)
    a, b = stored(folder / "s2-unbroken"), stored(folder / "s2-resumed")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    shown = {
        name.partition("_")[0] for r in read_metrics(folder / "s2-unbroken").values() for name in r if "_vtc" in name
    }
    assert shown == {"image", "video"}, "both media were trained on"


def test_a_batch_in_pieces_is_the_same_objective(folder: Path, two_ranks: dict[str, list[Any]]) -> None:
    """The first step has the same weights; later ones meet other dropout."""
    assert two_ranks["stage2 split"] == ({"code": 0}, {"code": 0})
    whole, split = read_metrics(folder / "s2-unbroken"), read_metrics(folder / "s2-split")
    for step in whole:
        assert whole[step]["mask_digest_total"] == split[step]["mask_digest_total"]
    names = [name for name in whole[1] if name.endswith("_uta")]
    assert names
    for name in names:  # what no dropout touches
        assert split[1][name] == pytest.approx(whole[1][name], rel=1e-5)
    assert split[1]["loss"] == pytest.approx(whole[1]["loss"], rel=0.02)


@pytest.mark.parametrize("name", ["packed", "zero3", "vtm alone"])
def test_stage_2_trains_packed_in_bf16_with_zero_3_and_with_parts_left_out(
    name: str, folder: Path, two_ranks: dict[str, list[Any]]
) -> None:
    assert two_ranks[f"stage2 {name}"] == ({"code": 0}, {"code": 0})
    records = read_metrics(folder / STAGE2[name][0])
    assert len(records) == (STEPS if name == "packed" else 3)
    if name == "packed":
        assert {"image_vtc", "video_vtc", "image_mlm", "video_uta"} <= set(records[1])
        assert records[STEPS]["loss"] < records[1]["loss"]
        assert records[1]["temperature"] == pytest.approx(0.07, abs=1e-6), "bf16 has .0698 and .0703"
        assert 0 < abs(records[STEPS]["temperature"] - 0.07) < 4e-3
    if name == "vtm alone":
        assert {key for key in records[1] if key.startswith(("image_", "video_"))} == {"image_vtm", "video_vtm"}


def test_stage_2_waits_for_the_host_where_words_are_hidden_on_it_alone(two_ranks: dict[str, list[Any]]) -> None:
    for told in two_ranks["stage2 host reads"]:
        assert told["code"] == 0
        for seen in told["seen"][1:]:  # tables are copied in the first
            assert all(" at masked_lm.py" in one or "_text_hashes" in one or "digest64" in one for one in seen), seen


def test_no_teacher_is_in_a_checkpoint_of_stage_2(folder: Path, two_ranks: dict[str, list[Any]]) -> None:
    names = {name.split()[1].split(".")[0] for name in stored(folder / "s2-unbroken")}
    assert names == {"temp", "vision_encoder", "text_encoder", "vision_proj", "text_proj", "itm_head"}


def test_one_rank_sees_the_same_and_with_global_negatives_and_means_loses_the_same(
    folder: Path, two_ranks: dict[str, list[Any]]
) -> None:
    quiet = ("task.text.dropout=0", "task.vtm.negatives=global", "task.mlm.mean=global", "batch.micro=12")
    alone = call("tests.distributed.calls:train", name="demo/stage2", overrides=stage2_run(folder, "s2-alone", *quiet))
    assert run_ranks(1, [alone]) == [[{"code": 0}]]
    a, b = read_metrics(folder / "s2-global"), read_metrics(folder / "s2-alone")
    for step in a:
        for exact in ("digest", "mask_digest_total", "lr"):
            assert a[step][exact] == b[step][exact], f"step {step}: {exact}"
        for number in ("loss", "grad_norm"):
            assert a[step][number] == pytest.approx(b[step][number], rel=2e-4), f"step {step}: {number}"
