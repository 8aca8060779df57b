"""A mixture that changes, in the report: a line in the curves where it does, and what was drawn on both sides."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from tests.support.tiny_runs import make_config, write_run
from umt_ds.config.run import RunConfig
from umt_ds.report.history import read_history
from umt_ds.report.pictures import RIGHT, draw_training
from umt_ds.report.write import write_report
from umt_ds.tasks.room import ExhibitOptions

STEPS = 8


def run_with(tmp_path: Path, *changes: str) -> RunConfig:
    """Eight logged steps of 1,024 clips; both sources weigh the same at the start."""
    sources = "data.sources={a: {shards: /x, weight: 1}, b: {shards: /y, weight: 1}}"
    of_run = ["batch.global=1024", "batch.micro=1024", "schedule.steps=8", "schedule.warmup_steps=1"]
    config = make_config(tmp_path, "data.sources=null", sources, *of_run, *changes)
    write_run(config)
    of_step = {"draws": 0, "epoch": 0, "lr": 1e-3, "grad_norm": 1.0, "clips_per_s": 9.0, "digest": "d", "attempt": 1}
    lines = [json.dumps({"step": step, "loss": 2 / step, "gflops_per_clip": 1.0, **of_step}) for step in range(1, 9)]
    (config.folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return config


def columns_of(png: bytes, colour: str) -> set[int]:
    """Where in a picture something has this colour, counted in columns of pixels."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    near = np.abs(pixels - ImageColor.getrgb(colour)).max(axis=2) < 12
    return set(np.nonzero(near.sum(axis=0) > 40)[0].tolist())  # of a line, not of a word


def test_curves_have_a_line_where_the_mixture_changes(tmp_path: Path) -> None:
    history = read_history(run_with(tmp_path).folder)
    assert not columns_of(draw_training(history, title="one"), RIGHT)
    early, late = (columns_of(draw_training(history, title="one", changes=[step]), RIGHT) for step in (2, 6))
    assert early
    assert late
    assert max(early) < min(late)


def words_in(page: Path) -> str:
    """The text of a page without pictures."""
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]*>", " ", page.read_text(), flags=re.DOTALL))


def test_the_page_says_what_was_drawn_on_both_sides(tmp_path: Path) -> None:
    """4,096 draws, a block, in the first four steps: half and half; then b alone. The change at 500 is to come."""
    config = run_with(tmp_path, "data.segments.4.a=0", "data.segments.6={a: 1, b: 0}", "data.segments.500.b=1")
    write_report(config.folder, tmp_path / "out", ExhibitOptions(), say=lambda _: None)
    words = words_in(tmp_path / "out" / "index.html")
    assert "The mixture was declared to change (data.segments). Clips drawn of each source so far:" in words
    assert "steps a b 0 to 3 2048 (50 %) 2048 (50 %) 4 to 5 0 (0 %) 2048 (100 %) 6 to 7 2048 (100 %) 0 (0 %)" in words
    assert "500" not in words.partition("Clips drawn of each source so far:")[2].partition("Speed")[0]


def test_a_run_of_one_mixture_has_no_such_table(tmp_path: Path) -> None:
    config = run_with(tmp_path)
    write_report(config.folder, tmp_path / "out", ExhibitOptions(), say=lambda _: None)
    assert "The mixture was declared" not in words_in(tmp_path / "out" / "index.html")
