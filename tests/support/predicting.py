"""Small runs that say something of videos, and videos to ask them about: for `umt predict` and the Python API."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from tests.support.recognition import NAMES, a_set, module_of, run_on
from tests.support.stage2_runs import write_for_stage2
from tests.support.tiny_runs import add_checkpoint, write_run
from tests.support.videos import write_video
from umt_ds.config.load import load_run
from umt_ds.tasks.kinds import build_task

CAPTIONS = ("a red ball", "two men, running!", "b", "the dog sleeps")
ANSWERS = ("red", "two", "running", "a dog")
QUESTIONS = ("which colour is it?", "what do they do")


def write_videos(folder: Path) -> Path:
    """A dark, a grey and a bright one, and a text file beside them."""
    for name, level in (("dark", 20), ("grey", 120), ("sub/bright", 220)):
        wide = np.full((32, 48, 3), level, np.uint8)
        wide[:, :12] = 128
        write_video(folder / f"{name}.mp4", pictures=[wide] * 11, fps=10)
    (folder / "notes.txt").write_text("no video")
    return folder


def classifier_run(folder: Path) -> Path:
    """A run that tells clips apart by how bright they are, tested in 2 segments x 3 crops; its sets are gone."""
    train = a_set(folder / "train")
    test = ("evaluation.test.kind=classification", "evaluation.test.shards=gone", "evaluation.test.segments=2")
    config = run_on(train, train, f"run_dir={folder / 'run'}", *test, "evaluation.test.crops=3")
    run = write_run(config)
    add_checkpoint(run, config, weights=module_of(config).state_dict(), classes=NAMES)
    return run


def finder_run(folder: Path, *more: str) -> Path:
    """A run of stage 2 as it begins, with a vocabulary of letters."""
    write_for_stage2(folder)
    words = [
        f"run_dir={folder / 'run'}", "data.sources={clips: {shards: gone}}", "task.teacher.weights=random",
        "init.weights=null", f"task.text.vocabulary={folder / 'vocab.txt'}", "evaluation=null",
        "cadence.keep_best=null", *more,
    ]  # fmt: skip
    config = load_run("demo/stage2", words)
    run = write_run(config)
    module = build_task(config, device=torch.device("cpu"), precision="fp32").module
    with torch.no_grad():
        module.itm_head.weight.mul_(30)  # so that captions differ
    add_checkpoint(run, config, weights=module.state_dict())
    return run


def answerer_run(folder: Path) -> Path:
    """A run of question answering as it begins; its answers in a list beside it."""
    write_for_stage2(folder)
    task = {
        "kind": "question_answering",
        "encoder": {"preset": "pocket", "frames": 2, "image_size": 16},
        "text": {"preset": "custom", "sizes": {"width": 32, "layers": 4, "heads": 2, "hidden": 64, "vocab_size": 128},
                 "weights": "random", "vocabulary": str(folder / "vocab.txt"), "fusion_layers": 2,
                 "max_tokens": 20},
        "answer_tokens": 8,
    }  # fmt: skip
    tree = {"name": "answers", "run_dir": str(folder / "run"), "task": task, "engine": {"deepspeed": "cpu.json"},
            "data": {"sources": {"questions": {"shards": "gone"}}}, "batch": {"global": 2, "micro": 2},
            "schedule": {"steps": 1, "warmup_steps": 0},
            "optim": {"lr": 1e-4, "lr_rule": "absolute", "weight_decay": 0.02}}  # fmt: skip
    (folder / "answers.yaml").write_text(json.dumps(tree))
    (folder / "answers.json").write_text(json.dumps(ANSWERS))
    config = load_run(str(folder / "answers.yaml"))
    run = write_run(config)
    module = build_task(config, device=torch.device("cpu"), precision="fp32").module
    with torch.no_grad():
        for parameter in module.text_decoder.parameters():
            parameter.mul_(3)  # so that answers differ
    add_checkpoint(run, config, weights=module.state_dict())
    return run
