"""A small model of video and text in a run folder, for tests that embed and search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner, Result

from tests.support.stage2_runs import stage2_run, write_for_stage2
from tests.support.tiny_runs import add_checkpoint, write_run
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.errors import UmtError
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


def call(command: Any, *words: object) -> Result:
    """Raises what the command raises."""
    return CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)


def error_of(command: Any, *words: object) -> str:
    """What it says and ends with: an error of the command, or of a rank that has said it."""
    result = CliRunner().invoke(command, [str(word) for word in words])
    assert isinstance(result.exception, UmtError | SystemExit), result.exception
    assert result.exit_code != 0
    return str(result.exception) if isinstance(result.exception, UmtError) else result.stderr
