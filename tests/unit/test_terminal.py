"""Bars: over themselves on a terminal, a line each ten seconds in a log file."""

from __future__ import annotations

import io
import sys

import pytest

from umt_ds.terminal import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(file: io.StringIO, monkeypatch: pytest.MonkeyPatch, *, seconds_a_step: float = 1.0) -> str:
    """What a bar over 30 steps writes."""
    clock = iter(range(10_000))
    monkeypatch.setattr(sys, "stderr", file)
    monkeypatch.setattr("tqdm.std.time", lambda: next(clock) * seconds_a_step)
    with progress(total=30, unit="clip", desc="train") as bar:
        for _ in range(30):
            bar.update()
    return file.getvalue()


def test_a_log_file_gets_a_line_each_ten_seconds_and_the_last_state(monkeypatch: pytest.MonkeyPatch) -> None:
    log = written(io.StringIO(), monkeypatch)
    lines = log.splitlines()
    assert "\r" not in log
    assert log.endswith("\n")
    assert 3 <= len(lines) <= 7  # a look at the clock is a second here, and 30 steps take as many or a few more
    assert all(line.startswith("train:") for line in lines)
    assert "30/30" in lines[-1]
    assert len(set(lines)) == len(lines)


def test_a_terminal_gets_one_line_that_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = written(Terminal(), monkeypatch)
    assert shown.count("\n") == 1
    assert shown.count("\r") > 10
