"""Which kernels run is said by UMT_KERNELS and by the machine, once, and never hidden."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from umt_ds.errors import ConfigError, MachineError
from umt_ds.kernels import backend
from umt_ds.kernels.backend import Choice, choose, runs_triton


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("UMT_KERNELS", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    backend._chosen.cache_clear()
    yield
    backend._chosen.cache_clear()


@pytest.fixture
def _broken_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)  # importing it raises


def test_a_cpu_runs_the_references_and_does_not_even_look_for_triton() -> None:
    assert choose("cpu") == Choice(False, "Triton needs a GPU")
    assert not runs_triton(torch.zeros(1))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_torch_forces_the_references(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMT_KERNELS", "torch")
    assert choose(device) == Choice(False, "UMT_KERNELS=torch")


def test_an_unknown_word_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMT_KERNELS", "tritn")
    with pytest.raises(ConfigError, match="UMT_KERNELS='tritn'") as caught:
        runs_triton(torch.zeros(1))
    assert "auto, torch, triton" in str(caught.value)


def test_the_interpreter_takes_cpu_tensors_only_where_triton_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))  # the true one would interpret ever after
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert not choose("cpu").triton
    monkeypatch.setenv("UMT_KERNELS", "triton")
    assert choose("cpu") == Choice(True, "by its interpreter")
    assert runs_triton(torch.zeros(1))
    assert not runs_triton(torch.zeros(1, dtype=torch.float64)), "the references take what kernels do not"


@pytest.mark.usefixtures("_broken_triton")
def test_a_triton_that_does_not_import_is_a_warning_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="umt_ds")
    for _ in range(2):
        assert not backend._chosen("cuda").triton
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(
        "kernels on cuda: torch references (Triton does not work: ModuleNotFoundError"
    )


@pytest.mark.usefixtures("_broken_triton")
def test_a_triton_that_was_asked_for_and_does_not_import_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMT_KERNELS", "triton")
    with pytest.raises(MachineError, match="UMT_KERNELS=triton, but Triton does not work"):
        choose("cuda")
