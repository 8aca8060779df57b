"""What the rank of test_official_corpora.py does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.support.reads import leaves_of, noting_reads
from tests.support.recipes import write_bert
from umt_ds.config.load import load_run
from umt_ds.engine.metrics_file import METRICS
from umt_ds.errors import EXIT_DONE
from umt_ds.jobs.eval_runs import find_runs
from umt_ds.jobs.evaluate import run_evaluation
from umt_ds.jobs.score_files import ScoreFiles
from umt_ds.jobs.train import run_training

STAGE2 = Path("runs") / "stage2"
SIZES = ("preset=custom", "image_size=32", "sizes={width: 32, depth: 2, heads: 2, patch: 16}")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS))
TWO_STEPS = (
    "schedule.epochs=null", "schedule.warmup_epochs=null", "schedule.steps=2", "schedule.warmup_steps=1",
    "batch.global=2", "batch.micro=2", "data.workers=0", "report.tensorboard=false", "engine.deepspeed=cpu.json",
    "task.text.preset=folder",
)  # fmt: skip


def enter(folder: str) -> None:
    """Go where the recipes are to be run, with the variables that they want and a tiny BERT."""
    os.chdir(folder)
    write_bert(Path("bert"), words=WORDS)
    os.environ |= {"UMT_DATA": f"{folder}/shards", "UMT_BERT_BASE": "bert", "UMT_STAGE2_B16_25M": str(STAGE2)}
    os.environ |= {"UMT_CLIP_B16": "nowhere", "UMT_STAGE1_B16": "nowhere"}


def train_stage2() -> None:
    """The run that all recipes start from."""
    sources = {"clips": {"shards": "shards/msrvtt-train9k", "frames": {"policy": "intervals"}}}
    overrides = [
        *TWO_STEPS, *(f"task.student.{size}" for size in SIZES), "task.teacher=null", "task.loss_weights.uta=0",
        "data.sources=null", f"data.sources={json.dumps(sources)}", "init.weights=null", f"run_dir={STAGE2}",
    ]  # fmt: skip
    assert run_training(load_run("stage2/b16_25m", overrides)) == EXIT_DONE


def train_and_score(name: str) -> dict[str, Any]:
    """Two steps of a recipe: its scores while it trained, by evaluation, those that `umt eval --best` finds in its run
    folder, and the settings that no code looked at."""
    sizes = [f"task.encoder.{size}" for size in SIZES]
    run = load_run(name, [*TWO_STEPS, *sizes, "cadence.evaluate=2", f"run_dir=runs/{name}"])
    with noting_reads(run) as read:
        assert run_training(run) == EXIT_DONE
    lines = [json.loads(line) for line in (run.folder / METRICS).read_text().splitlines()]
    trained = {one["evaluation"]: one for one in lines if one.get("kind") == "scores"}
    unread = sorted(set(leaves_of(run)) - read)
    return {"while it trained": trained, "afterwards": _scored(str(run.folder), best=True), "unread": unread}


def score(name: str) -> dict[str, Any]:
    """A zero-shot recipe: its scores by evaluation."""
    sizes = [f"task.student.{size}" for size in SIZES]
    return _scored(name, *sizes, "task.text.preset=folder", "task.teacher=null", "task.loss_weights.uta=0")


def _scored(run: str, *overrides: str, best: bool = False) -> dict[str, Any]:
    out = Path("scores.json")
    run_evaluation(find_runs([run], overrides, best=best), ScoreFiles(out, None))
    (scored,) = json.loads(out.read_text())["runs"]
    out.unlink()
    return {one["evaluation"]: {**one, "left_out": len(one["left_out"])} for one in scored["evaluations"]}
