"""`umt bench fp8` on a few clips: the command runs, and what it says is about the run's own teacher."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.support.shards import noisy_frames, write_shards
from tests.support.stage2_runs import stage2_run, write_for_stage2
from umt_ds.bench.fp8 import Fp8Change
from umt_ds.cli.bench import command
from umt_ds.errors import ConfigError

TOWER = "{image_size: 16, patch_size: 8, width: 32, layers: 3, heads: 2, out_width: 16}"


def test_it_tells_cosines_layer_by_layer_and_how_many_patches_stay(tmp_path: Path) -> None:
    write_shards(tmp_path, [3], members=noisy_frames)
    run = ["demo/stage1", "task.student.image_size=16", "task.student.frames=2", f"task.teacher.tower={TOWER}",
           "task.teacher.weights=random", "task.teacher.layers=2", f"data.sources.demo.shards={tmp_path}"]  # fmt: skip
    said = CliRunner().invoke(command, ["fp8", *run, "--clips", "2"], catch_exceptions=False).output
    cosines = [float(number) for number in re.findall(r"cosine mean ([0-9.]+)", said)]
    assert len(cosines) == 3, "two layers, and all"
    assert all(0.98 < cosine < 1 for cosine in cosines)
    assert re.search(r"[0-9.]+ % of the kept tokens are the same", said)


def test_the_teacher_of_stage_2_is_measured_too(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", [3], members=noisy_frames)
    write_for_stage2(tmp_path)
    run = ["demo/stage2", *stage2_run(tmp_path, "run"), "task.student.image_size=16", f"task.teacher.tower={TOWER}",
           "task.teacher.layers=2", "task.text.sizes.vocab_size=77"]  # fmt: skip
    said = CliRunner().invoke(command, ["fp8", *run, "--clips", "2"], catch_exceptions=False).output
    assert len(re.findall(r"cosine mean ([0-9.]+)", said)) == 3, "two layers, and all"


def test_a_run_without_a_teacher_has_nothing_to_quantise() -> None:
    with pytest.raises(ConfigError, match=r"task\.kind image_text has no teacher"):
        CliRunner().invoke(command, ["fp8", "demo/teacher"], catch_exceptions=False)


@pytest.mark.parametrize(("cosine", "verdict"), [(0.9995, "as it should be"), (0.998, "too little")])
def test_the_verdict_is_on_the_mean_of_all_layers(cosine: float, verdict: str) -> None:
    assert verdict in Fp8Change(torch.full((2, 1, 4), cosine), overlap=0.9).text()
