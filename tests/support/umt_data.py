"""`umt-data` in the process of a test, which loads its libraries once for all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from data_prep.cli import main


@dataclass(frozen=True)
class Said:
    """How a command ended: exit code, results (stdout), everything else (stderr)."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All that it said."""
        return self.out + self.err


Umt = Callable[..., Said]


def umt_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Umt:
    """What runs `umt-data WORDS…`; a traceback fails the test."""

    def run(*words: str | Path) -> Said:
        monkeypatch.setattr(sys, "argv", ["umt-data", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Said(int(caught.value.code or 0), said.out, said.err)

    return run
