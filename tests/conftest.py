"""The folder of real inputs beside the repository, and how many examples property tests draw."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.paths import REPO, SHARED

# `make test`: a few examples, always the same ones. `make fuzz`: many, new ones each time.
settings.register_profile("short", max_examples=40, derandomize=True, deadline=None)
settings.register_profile("fuzz", max_examples=3000, deadline=None, print_blob=True)
settings.load_profile("short")

TESTS = REPO / "tests"


def pytest_collection_finish() -> None:
    """What libraries and tests made when they were imported stays: no test's garbage is looked for in it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real inputs beside the repository; a test that needs it is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder of real inputs at {SHARED}")
    return SHARED


@pytest.fixture(autouse=True)
def own_indexes(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Where indexes lie that a test makes on this node: no other test sees them, as their sets can be the same."""
    made: list[Path] = []

    def node_folder() -> Path:
        made[:] = made or [tmp_path_factory.mktemp("node")]
        return made[0]

    monkeypatch.setattr("umt_ds.data.shards.node_index.node_folder", node_folder)
    return node_folder


@pytest.fixture(autouse=True)
def no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits shorter for a store because one before it has waited."""
    monkeypatch.setattr("umt_ds.data.shards.back_off._away", None)


@pytest.fixture(autouse=True)
def own_log() -> None:
    """A command that was run in this process has sent its log to stderr alone: the next test hears the log again."""
    log = logging.getLogger("umt_ds")
    log.handlers.clear()
    log.propagate = True
    log.setLevel(logging.NOTSET)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Retries without waiting; the pauses that would have been made."""
    pauses: list[float] = []
    monkeypatch.setattr("umt_ds.data.shards.storage.time.sleep", pauses.append)
    return pauses
