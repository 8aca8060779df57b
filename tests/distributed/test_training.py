"""`umt train demo/stage1` whole, on small shards: resume bit for bit, another world and ZeRO stage, every ds_config."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.calls import HostReads
from tests.support.exported import differing
from tests.support.jobs import write_clips
from tests.support.ranks import REPO, Call, call, run_ranks
from tests.support.same_run import assert_same_run, assert_same_state, stored
from umt_ds.engine.manifest import read_checkpoint_manifest
from umt_ds.engine.metrics_file import METRICS, read_metrics, read_scores
from umt_ds.exchange.source import open_source
from umt_ds.jobs.eval_runs import find_runs

STEPS, STOP = 6, 3
DS_CONFIGS = sorted(path.name for path in (REPO / "ds_configs").glob("*.json"))
ZERO2_FP32 = "cpu.json at stage 2"
UNSYNCED = ("zero0.json", "zero1_bf16.json", ZERO2_FP32)  # each stage and precision, with clipping
JUDGE_AVERAGE = "evaluation={mean: {kind: knn, shards: none, ema: true}}"  # which `train_evaluated` makes


def zero(stage: int) -> str:
    return f"engine.deepspeed_set={{zero_optimization.stage: {stage}}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_clips(folder / "shards", (9, 9, 9))
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


def train(folder: Path, run: str, *more: str, target: str = "train", **arguments: Any) -> Call:
    """A run in `folder`. target: which function of `calls.py` trains it."""
    words = overrides(folder, run, *more)
    return call(f"tests.distributed.calls:{target}", name="demo/stage1", overrides=words, **arguments)


def stopped_and_not(folder: Path) -> dict[str, Call]:
    """A run that is unbroken, and others that must equal it: stopped, resumed, with settings that change no number."""
    return {
        "unbroken": train(folder, "unbroken"),
        "stopped": train(folder, "resumed", f"stop_at={STOP}"),
        "resumed": train(folder, "resumed"),
        "ahead": train(folder, "ahead", "engine.ahead=true", f"stop_at={STOP}"),
        "resumed ahead": train(folder, "ahead", "engine.ahead=true"),
        "written at once": train(folder, "at-once", "cadence.async_save=false"),
        "before the full disk": train(folder, "full-disk", "stop_at=2"),
        # files may be large enough for batches in shared memory, too small for a share of the weights
        "full disk": train(folder, "full-disk", target="train_with_small_files", rank=1, limit=1 << 20),
        "after the full disk": train(folder, "full-disk"),
        "continued": train(folder, "continued", f"init.resume_from={folder / 'unbroken'}"),
    }


def evaluated(folder: Path) -> dict[str, Call]:
    watched = (JUDGE_AVERAGE, "engine.ahead=true", "cadence.evaluate=4")
    warm = (f"init.weights={folder / 'unbroken'}", "init.ema=true", "schedule.steps=3", "cadence.evaluate=9")
    return {
        "evaluated": train(folder, "evaluated", *watched, target="train_evaluated"),
        "from weights": train(folder, "from-weights", *warm, target="train_evaluated"),
    }


def diverging(folder: Path) -> dict[str, Call]:
    """Runs whose learning rate makes NaN of them, each started twice."""
    wild = ("optim.lr=1e30", "optim.clip_grad=null", "schedule.warmup_steps=3", "cadence.save=1", "cadence.log=3")
    return {
        f"{again}diverging {stage}": train(folder, f"diverging-{stage}", zero(stage), *wild)
        for again in ("", "again ")
        for stage in (0, 1)
    }


def three_steps(folder: Path) -> dict[str, Call]:
    """With each ds_config; what those of UNSYNCED read is noted."""
    ways = {name: [f"engine.deepspeed={name}"] for name in DS_CONFIGS}
    ways[ZERO2_FP32] = ["engine.deepspeed=cpu.json", zero(2)]
    short = ("schedule.steps=3", "cadence.save=100")
    return {
        name: train(folder, f"ds-{name}", *short, *way, target="host_reads" if name in UNSYNCED else "train")
        for name, way in ways.items()
    }


def at_zero_3(folder: Path) -> dict[str, Call]:
    often = ("cadence.evaluate=2", JUDGE_AVERAGE)
    return {
        "plain at zero 3": train(folder, "plain-3", zero(3)),
        "evaluated at zero 3": train(folder, "evaluated-3", zero(3), *often, target="train_evaluated"),
    }


@pytest.fixture(scope="module")
def two_ranks(folder: Path) -> dict[str, list[Any]]:
    """All in one launch: by name, what each rank returned."""
    calls = stopped_and_not(folder) | evaluated(folder) | diverging(folder) | three_steps(folder)
    # last: at ZeRO 3 DeepSpeed puts a linear of its own in the place of torch's, for the rest of the process
    calls |= at_zero_3(folder)
    by_rank = run_ranks(2, list(calls.values()))
    return dict(zip(calls, zip(*by_rank, strict=True), strict=True))


def test_a_stopped_run_ends_with_75_on_every_rank_and_a_finished_one_with_0(two_ranks: dict[str, list[Any]]) -> None:
    assert two_ranks["stopped"] == ({"code": 75}, {"code": 75})
    assert two_ranks["resumed"] == two_ranks["unbroken"] == ({"code": 0}, {"code": 0})


def test_a_resumed_run_is_the_unbroken_run_bit_for_bit(folder: Path, two_ranks: dict[str, list[Any]]) -> None:
    assert_same_run(folder / "unbroken", folder / "resumed", steps=STEPS, rtol=None)
    assert_same_state(folder / "unbroken", folder / "resumed")
    assert {r["attempt"] for r in read_metrics(folder / "resumed").values()} == {1, 2}


def test_a_teacher_that_works_ahead_changes_nothing(folder: Path, two_ranks: dict[str, list[Any]]) -> None:
    assert two_ranks["ahead"] == ({"code": 75}, {"code": 75})
    assert two_ranks["resumed ahead"] == ({"code": 0}, {"code": 0})
    assert_same_run(folder / "unbroken", folder / "ahead", steps=STEPS, rtol=None)


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
    assert_same_run(folder / "unbroken", folder / "full-disk", steps=STEPS, rtol=None)


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
    assert_same_run(folder / plain, folder / run, steps=STEPS, rtol=None)
    assert_same_state(folder / plain, folder / run)
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


@pytest.mark.parametrize("name", UNSYNCED)
def test_a_step_reads_nothing_for_which_a_host_would_wait(name: str, two_ranks: dict[str, list[Any]]) -> None:
    """On a CPU nobody waits, but what is read can be counted. (`tests/gpu` holds it against a real device.)"""
    with HostReads() as reads:
        _ = torch.ones(3)[torch.tensor([True, False, True])].sum().item()
    assert [seen.partition(" ")[0] for seen in reads.seen] == ["lift_fresh", "index", "_local_scalar_dense"]
    for told in two_ranks[name]:
        assert told["code"] == 0
        constants, *later_steps = told["seen"]  # tables and pixel statistics are copied once
        assert {seen.partition(" ")[0] for seen in constants} <= {"lift_fresh"}
        assert later_steps == [[], []]


def test_the_teacher_is_in_no_checkpoint(folder: Path, two_ranks: dict[str, list[Any]]) -> None:
    names = {name.split()[1].split(".")[0] for name in stored(folder / "unbroken")}
    assert names == {"encoder", "clip_decoder"}


@pytest.mark.parametrize("name", DS_CONFIGS)
def test_every_ds_config_trains_three_steps(name: str, folder: Path, two_ranks: dict[str, list[Any]]) -> None:
    assert [told["code"] for told in two_ranks[name]] == [0, 0]
    losses = [record["loss"] for record in read_metrics(folder / f"ds-{name}").values()]
    assert len(losses) == 3
    assert losses[2] < losses[0]  # at 3 steps of this recipe the loss has fallen from 1.97


def exported(run: Path, *, averaged: bool = False) -> Mapping[str, torch.Tensor]:
    """What `umt export` takes out of a run."""
    return open_source(find_runs([str(run)], judged=False)[0], averaged=averaged).state


@pytest.mark.parametrize("averaged", [False, True], ids=["trained", "averaged"])
@pytest.mark.parametrize("run", ["unbroken", f"ds-{ZERO2_FP32}", "plain-3"])
def test_a_model_is_exported_from_the_shards_of_two_ranks_at_each_zero_stage(
    run: str, averaged: bool, folder: Path, two_ranks: dict[str, list[Any]]
) -> None:
    """ZeRO 1, 2 and 3. That of one rank: the test below."""
    kind = "ema" if averaged else "weight"
    parts = {key.removeprefix(f"{kind} "): value for key, value in stored(folder / run).items() if key.startswith(kind)}
    model = exported(folder / run, averaged=averaged)
    assert differing(model, parts) == []
    if run == "plain-3":
        assert_close(model, exported(folder / "unbroken", averaged=averaged))


def assert_close(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> None:
    """But for rounding."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        within = 1e-4 * float(expected.abs().max())
        torch.testing.assert_close(ours[name], expected, rtol=0, atol=within, msg=lambda m, n=name: f"{n}: {m}")


def test_one_rank_at_zero_3_sees_the_same_clips_and_masks_and_the_same_losses_to_rounding(
    folder: Path, two_ranks: dict[str, list[Any]]
) -> None:
    """Other worlds and stages: `test_elastic.py`, and `test_recognition_ranks.py` with three ranks at ZeRO 2."""
    run = folder / "elastic"
    shutil.copytree(folder / "resumed", run)
    for late in (run / "checkpoints").glob("step-*"):  # back to where it stopped
        if int(late.name[5:]) > STOP:
            shutil.rmtree(late)
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for s, r in read_metrics(folder / "resumed").items() if s <= STOP)
    )
    assert run_ranks(1, [train(folder, run.name, zero(3), "data.workers=2")]) == [[{"code": 0}]]
    assert_same_run(folder / "unbroken", run, steps=STEPS, rtol=1e-5)
    assert_close(exported(folder / "unbroken"), exported(run))
