"""Small runs of question answering: clips of one colour each, and questions about it, of which the answer is seen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.support.shards import Members, picture, write_shards
from umt_ds.batch import Batch
from umt_ds.config.batching import plan_run
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.distributed.world import World
from umt_ds.tasks.kinds import build_task
from umt_ds.tasks.loader import build_loader
from umt_ds.tasks.question_answering.task import QuestionAnsweringTask

COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "dark blue": (30, 30, 220)}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "colour", "it", "red", "green", "dark", "blue",
         "yes", "no", "how", "sea", "##side", "grey", "##ish"]  # fmt: skip
_RUN = """
name: tiny_answers
task:
  kind: question_answering
  encoder: {preset: custom, sizes: {width: 32, depth: 2, heads: 2, patch: 8}, frames: 2, image_size: 16}
  text:
    preset: custom
    sizes: {width: 32, layers: 3, heads: 2, hidden: 64, vocab_size: 20}
    weights: random
    fusion_layers: 1
    max_tokens: 8
    dropout: 0.0
data: {augment: {crop: center, flip: false, antialias: false}, workers: 0}
batch: {global: 6, micro: 6}
optim: {lr: 3.0e-3, lr_rule: absolute, min_lr: 1.0e-4, weight_decay: 0.02}
schedule: {curve: cosine_floor, steps: 6, warmup_steps: 1}
engine: {deepspeed: cpu.json}
cadence: {log: 1, save: 100, keep: 2}
report: {tensorboard: false}
"""


def question(number: int, **more: Any) -> Members:
    """A clip of one colour. Even numbers ask which, odd ones whether it is red."""
    name = list(COLOURS)[number % 3]
    if number % 2:
        said = {"question": "Is it RED?", "answers": ["yes" if name == "red" else "no"], "question_type": "yes/no"}
    else:
        said = {"question": "what colour is it?", "answers": [name], "question_type": "color"}
    shade = np.random.default_rng(number).integers(-20, 20)
    pixels = np.clip(np.full((20, 28, 3), COLOURS[name]) + shade, 0, 255).astype(np.uint8)
    return {**{f"{i:03d}.png": picture(pixels) for i in range(3)}, "json": json.dumps({**said, **more}).encode()}


def write_questions(folder: Path, counts: Sequence[int] = (6, 6), **more: Any) -> Path:
    """Shards of such clips. more: of `write_shards`."""
    return write_shards(folder, counts, **{"members": question, **more})


def write_vocabulary(folder: Path) -> Path:
    """A file with the words of these questions and answers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder / "vocab.txt"


def write_list(path: Path, answers: Any = ("red", "green", "dark blue", "yes", "no")) -> Path:
    """A list of answers."""
    path.write_text(json.dumps(answers))
    return path


def answering_run(folder: Path, *overrides: str) -> RunConfig:
    """A run on FOLDER/train with the vocabulary of FOLDER, both of which it writes where they are not there."""
    return load_run(str(write_run_file(folder)), [f"run_dir={folder / 'run'}", *overrides])


def write_run_file(folder: Path) -> Path:
    """Its YAML, with what it names."""
    if not (folder / "train").exists():
        write_questions(folder / "train")
        write_vocabulary(folder)
    file = folder / "tiny_answers.yaml"
    data = f"data: {{sources: {{questions: {{shards: {folder / 'train'}}}}},"
    text = f"    weights: random\n    vocabulary: {folder / 'vocab.txt'}"
    file.write_text(_RUN.replace("data: {", data).replace("    weights: random", text))
    return file


def batches(run: RunConfig, steps: int) -> Iterator[Batch]:
    """What the loader gives in the first steps, of a micro-batch each."""
    plan = plan_run(run, world=1, num_samples=12)
    with closing(build_loader(run, plan, World.alone(), device=torch.device("cpu"))) as loader:
        for step in range(steps):
            yield from loader.micro_batches(step)


def task_of(run: RunConfig) -> QuestionAnsweringTask:
    task = build_task(run, device=torch.device("cpu"), precision="fp32")
    assert isinstance(task, QuestionAnsweringTask)
    return task


def trained(run: RunConfig, steps: int = 60) -> tuple[QuestionAnsweringTask, list[float]]:
    """The task after so many plain steps, in evaluation mode, and its losses."""
    task, losses = task_of(run), []
    optimiser = torch.optim.AdamW(task.module.parameters(), lr=3e-3)
    for step, batch in enumerate(batches(run, steps)):
        optimiser.zero_grad()
        loss = task.module(task.prepare(batch, step)).total
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    task.module.eval()
    return task, losses
