"""`umt bench loader` runs and its table has its rows. How fast anything is, is no test."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.support.loading import write_noise
from umt_ds.bench import loader, machine, rate
from umt_ds.bench.loader import Run, Table
from umt_ds.cli.bench import command
from umt_ds.config.load import load_run
from umt_ds.errors import ConfigError


def ways_in(table: str) -> set[str]:
    return {line.split("  ")[0] for line in table.splitlines()}


def test_the_command_compares_all_ways_on_clips_it_made_and_records_what_it_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "RESULTS.md"
    results.write_text("# What was measured\n")
    monkeypatch.setattr(machine.record, "__defaults__", (results,))
    monkeypatch.setitem(loader.measure_ways.__kwdefaults__, "draws", 8)
    arguments = [
        "loader",
        "--clips",
        "2",
        "--rounds",
        "1",
        "--workers",
        "1",
        "--on-device",
        "--fine-tuning",
        "--record",
    ]
    table = CliRunner().invoke(command, arguments, catch_exceptions=False).stdout
    ways = ways_in(table)
    assert {"umt_ds", "umt_ds, 1 worker", "resize on device", "decode on device", "simplejpeg"} <= ways
    assert {"fine-tuning", "fine-tuning, no RandAugment"} <= ways
    assert ("decord" in ways) == (find_spec("decord") is not None)
    for line in (
        "machine: ",
        "goal of 0.55 x simplejpeg, in one",
        "a core's time: read ",
        "cores for one H100, l16: ",
        "cores for one H100, fine-tuning b16: ",
    ):
        assert line in table
    assert table.rstrip() in results.read_text()


def test_shards_and_runs_of_the_users_are_measured_without_decord(tmp_path: Path) -> None:
    folder = write_noise(tmp_path / "shards")
    settings = f"extends: [demo/stage1]\nname: mine\ndata: {{sources: {{demo: {{shards: {folder}}}}}}}\n"
    (tmp_path / "mine.yaml").write_text(settings)
    for what in (folder, tmp_path / "mine.yaml"):
        arguments = ["loader", str(what), "--rounds", "1", "--workers", "1", "--against", "plain"]
        table = CliRunner().invoke(command, arguments, catch_exceptions=False).stdout
        assert "decord: skipped, it needs the videos, not shards" in table
        assert "umt_ds, 1 worker" in ways_in(table)


def test_fine_tuning_views_of_a_run_are_its_own(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["loader", "demo/stage1", "--fine-tuning"])
    assert isinstance(result.exception, ConfigError)
    assert "demo/stage1 has views of its own" in str(result.exception)


def test_goals_are_held_against_core_seconds_of_the_same_round() -> None:
    table = Table(
        runs={"umt_ds": [Run(100, 1.0, 1.0), Run(100, 5.0, 2.0)], "decord": [Run(10, 1.0, 1.0), Run(10, 1.0, 2.5)]},
        shares={"read": 0.1, "rest": 0.9},
    )
    text = table.text()
    assert table.ratios("umt_ds", "decord") == [10.0, 12.5]
    assert "goal of 10 x decord, in one process: met (umt_ds 11.25 x)" in text
    assert "a core's time: read 10%, rest 90%" in text
    # 900 and 280 clips/s at a median of 75 clips/core-s
    assert "b16: 12.0 at 900 clips/s" in text
    assert "l16: 3.7 at 280 clips/s" in text


def test_the_rate_that_a_plan_counts_with_is_that_of_one_thread_as_in_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second thread waits busily while nothing is resized, and its time would count as a core's."""
    threads: list[int] = []
    monkeypatch.setattr(rate, "_bytes_read", lambda: threads.append(torch.get_num_threads()) or 0)
    before = torch.get_num_threads()
    folder = write_noise(tmp_path / "shards")
    measured = rate.measure_loader(load_run("demo/stage1", [f"data.sources.demo.shards={folder}"]), seconds=0.05)
    assert measured.clips_per_core_s > 0
    assert threads == [1, 1]
    assert torch.get_num_threads() == before
