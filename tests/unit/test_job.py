"""Joining the process group: what stands in the way is said with what to do about it."""

from __future__ import annotations

import socket

import pytest

from umt_ds.distributed.job import start_job
from umt_ds.engine import deepspeed
from umt_ds.errors import ConfigError, MachineError


def test_a_port_that_another_program_has_is_said_with_the_variable_that_names_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        told = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in told.items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(MachineError, match=f"127.0.0.1:{port}(.|\n)*export MASTER_PORT=…"), start_job():
            pass


def test_an_accelerator_that_nothing_here_runs_on_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "gpu")
    with pytest.raises(ConfigError, match=r"DS_ACCELERATOR='gpu'(.|\n)*one of cuda, cpu"):
        deepspeed._import_deepspeed()
