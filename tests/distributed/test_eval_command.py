"""`umt eval` on two ranks: the numbers that training found in the same checkpoint, whoever asks."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.jobs import write_clips
from tests.support.ranks import call, run_ranks
from umt_ds.engine.metrics_file import METRICS, read_scores

STEPS = 3


def test_umt_eval_finds_what_training_found_in_its_last_step(tmp_path: Path) -> None:
    """In bf16 under ZeRO, where training has cast the weights, on a set that two ranks cannot share evenly."""
    shards, held_out = write_clips(tmp_path / "train"), write_clips(tmp_path / "val", (5, 4))
    run, out = tmp_path / "run", tmp_path / "scores.json"
    overrides = [
        f"run_dir={run}", f"data.sources.demo.shards={shards}", "task.teacher.weights=random", "data.workers=1",
        "batch.global=4", "batch.micro=2", f"schedule.steps={STEPS}", "schedule.warmup_steps=1", "cadence.log=1",
        "report.tensorboard=false", "engine.deepspeed=zero2_bf16.json", f"cadence.evaluate={STEPS}",
        "evaluation=null", "evaluation.val.kind=knn", f"evaluation.val.shards={held_out}", "evaluation.val.batch=2",
        "optim.ema_decay=0.5", "evaluation.averaged.kind=knn", f"evaluation.averaged.shards={held_out}",
        "evaluation.averaged.ema=true", "evaluation.averaged.batch=2",
    ]  # fmt: skip
    run_ranks(
        2,
        [
            call("tests.distributed.calls:train", name="demo/stage1", overrides=overrides),
            call("tests.distributed.eval_calls:evaluate", runs=[str(run)], out=str(out)),
        ],
    )
    (found,) = json.loads(out.read_text())["runs"]
    assert found["precision"] == "bf16"
    in_training = {told.evaluation: told for told in read_scores(run / METRICS)}
    assert in_training.keys() == {"val", "averaged"}
    for scores in found["evaluations"]:
        told = in_training[scores["evaluation"]]
        assert found["step"] == told.step
        assert scores["items"] == told.items == 9
        assert scores["values"] == told.values
        assert scores["protocol"] == told.protocol
    assert in_training["averaged"].protocol["weights"] == "averaged (decay 0.5)"
    assert in_training["averaged"].values["rankme"] != in_training["val"].values["rankme"]
