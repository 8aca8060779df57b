"""A small model of video and text in a run folder, for tests that embed and search."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.support.stage2_runs import stage2_run, write_for_stage2
from tests.support.tiny_runs import add_checkpoint, write_run
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.tasks.video_text.retriever import build_retriever


def retriever_run(folder: Path, *more: str) -> Path:
    """A run folder of stage 2 with a checkpoint of its first weights: two frames of 16 px, embeddings of 8 numbers."""
    if not (folder / "vocab.txt").exists():
        write_for_stage2(folder)
    config = retriever_config(folder, *more)
    write_run(config)
    weights = build_retriever(config, None, device=torch.device("cpu")).model.state_dict()
    add_checkpoint(config.folder, config, weights=weights)
    return config.folder


def retriever_config(folder: Path, *more: str) -> RunConfig:
    text = "{width: 32, layers: 2, heads: 2, hidden: 64, vocab_size: 77}"
    tower = "{image_size: 16, patch_size: 8, width: 32, layers: 2, heads: 2, out_width: 16}"
    small = (
        "task.student.image_size=16", "task.student.frames=2", f"task.text.sizes={text}", "task.text.fusion_layers=1",
        f"task.teacher.tower={tower}", "task.teacher.layers=2", "task.embed_width=8", "evaluation=null",
        "data.workers=0",
    )  # fmt: skip
    return load_run("demo/stage2", stage2_run(folder, "run", *small, *more))
