"""Small runs of demo/stage2: on the clips of `FOLDER/shards`, on pictures, with a vocabulary of letters."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support.shards import picture, record, write_shards

STEPS = 6


def write_for_stage2(folder: Path) -> None:
    """The pictures and the vocabulary."""
    write_shards(folder / "images", (9, 9), members=_still)
    letters = "0123456789abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")


def stage2_run(folder: Path, run: str, *more: str) -> list[str]:
    """Overrides: a random teacher, drop path and dropout on, twelve rows a step."""
    sources = f"{{clips: {{shards: {folder / 'shards'}}}, pictures: {{shards: {folder / 'images'}, media: image}}}}"
    return [
        f"run_dir={folder / run}", f"data.sources={sources}", "task.teacher.weights=random", "init.weights=null",
        f"task.text.vocabulary={folder / 'vocab.txt'}", "task.student.drop_path=0.2", "task.text.dropout=0.1",
        "data.workers=1", "batch.global=12", "batch.micro=6", "optim.clip_grad=0.05", f"schedule.steps={STEPS}",
        "schedule.warmup_steps=2", "cadence.log=1", "cadence.save=2", "cadence.evaluate=0", "report.tensorboard=false",
        *more,
    ]  # fmt: skip


def _still(number: int) -> dict[str, bytes]:
    noise = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return {**record(number), "png": picture(noise)}
