"""`umt bench prep` runs and its table has its rows. How fast anything is, is no test."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.videos import write_videos
from umt_ds.bench import machine
from umt_ds.bench.prep import Run, Table, make_clips, measure_prep
from umt_ds.cli.bench import command
from umt_ds.data.pixels.video import probe
from umt_ds.errors import ConfigError


def test_the_command_compares_all_ways_and_records_what_it_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # a machine without ffmpeg (and git)
    results = tmp_path / "RESULTS.md"
    results.write_text("# What was measured\n")
    monkeypatch.setattr(machine.record, "__defaults__", (results,))
    videos = write_videos(tmp_path / "videos", 2)
    arguments = ["prep", "--videos", str(videos), "--clips", "2", "--rounds", "1", "--workers", "1"]
    done = CliRunner().invoke(command, [*arguments, "--memory", "3", "--record"], catch_exceptions=False)
    table = done.stdout
    rows = {line.split("  ")[0] for line in table.splitlines()}
    assert {"umt-data, 1 worker", "ffmpeg: skipped, no ffmpeg on the PATH"} <= rows
    assert ("decord" in rows) == (find_spec("decord") is not None)
    for line in ("ten million such clips: ", "memory of one worker over 3 clips", "machine: ", "commit unknown"):
        assert line in table
    assert results.read_text().startswith("# What was measured\n\n## ")
    assert table.rstrip() in results.read_text()


def test_ratios_are_of_core_seconds_and_costs_scale_with_the_clips() -> None:
    table = Table(files=4, runs={"ffmpeg": [Run(4, 2.0, 2.0, 0)], "umt-data, 2 workers": [Run(4, 0.9, 1.6, 2_000_000)]})
    row = next(line for line in table.text().splitlines() if line.startswith("umt-data"))
    assert row.split()[3:] == ["4.44", "(4.44-4.44)", "2.50", "(2.50-2.50)", "1.25", "(1.25-1.25)", "-", "500"]
    assert "ten million such clips: 1,111 core-hours, 5.00 TB" in table.text()


def test_made_clips_are_of_the_size_of_webvid_and_always_the_same(tmp_path: Path) -> None:
    first, second = (make_clips(tmp_path / name, 2, frames=4) for name in ("a", "b"))
    files = [[path.read_bytes() for path in sorted(folder.iterdir())] for folder in (first, second)]
    assert files[0] == files[1]
    assert files[0][0] != files[0][1]
    info = probe(files[0][0])
    assert (info.width, info.height, info.fps, info.num_frames) == (596, 336, 25, 4)


def test_too_few_videos_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds 2 videos, not 3"):
        measure_prep(write_videos(tmp_path / "videos", 2), clips=3, rounds=1, workers=[1])
