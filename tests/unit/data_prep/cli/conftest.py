"""The command, for the tests of its words."""

from __future__ import annotations

import pytest

from tests.support.umt_data import Umt, umt_data


@pytest.fixture
def umt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Umt:
    """`umt-data WORDS…` in this process."""
    return umt_data(monkeypatch, capsys)
