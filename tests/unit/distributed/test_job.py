"""The way into and out of a process group: what stands in it, and what torch and DeepSpeed are told of GPUs, which
nobody has here."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from umt_ds.distributed import device, job
from umt_ds.distributed.job import start_job
from umt_ds.engine import deepspeed
from umt_ds.errors import ConfigError, MachineError


class Group:
    """Stands in for torch.distributed: notes how it is joined and left."""

    def __init__(self) -> None:
        self.joined: dict[str, Any] = {}
        self.left: list[str] = []

    def join(self, backend: str, **how: Any) -> None:
        self.joined = {"backend": backend, **how}


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    """Rank 3 of 4 on a node."""
    fake = Group()
    place = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3", "MASTER_ADDR": "n1", "MASTER_PORT": "29500"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    monkeypatch.setattr(dist, "init_process_group", fake.join)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: fake.left.append("left"))
    monkeypatch.setattr(dist.distributed_c10d, "_abort_process_group", lambda: fake.left.append("broken off"))
    return fake


@pytest.mark.parametrize(("visible", "index"), [(1, 0), (4, 3), (8, 3)])
def test_all_are_told_the_number_of_the_device_that_this_rank_sees(
    monkeypatch: pytest.MonkeyPatch, group: Group, visible: int, index: int
) -> None:
    """`srun --gpus-per-task=1` shows each rank one GPU, number 0; DeepSpeed takes LOCAL_RANK for a device's number."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    with start_job() as started:
        assert started.device == torch.device("cuda", index)
        assert started.world.local_rank == 3
        assert os.environ["LOCAL_RANK"] == str(index)
    assert group.joined["backend"] == "nccl"
    assert group.joined["device_id"] == torch.device("cuda", index)


def test_a_rank_without_a_gpu_says_how_many_there_are(monkeypatch: pytest.MonkeyPatch, group: Group) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(MachineError, match="local rank 3 has no GPU: 2 are visible"), start_job():
        pass


def test_a_gpu_that_this_torch_has_no_code_for_is_named(monkeypatch: pytest.MonkeyPatch, group: Group) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla V100-SXM2-16GB")
    with (
        pytest.raises(MachineError, match=r"no code for Tesla V100-SXM2-16GB \(sm_70\): it is built for sm_80, sm_90"),
        start_job(),
    ):
        pass


@pytest.mark.parametrize(
    ("built_for", "hidden", "why"),
    [
        (None, None, "is built for CPUs"),
        ("13.0", "", "CUDA_VISIBLE_DEVICES='' shows it none"),
        ("13.0", None, "it may be older than CUDA 13.0 needs"),
    ],
)
def test_why_a_machine_with_a_driver_trains_on_its_cpus_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, built_for: str | None, hidden: str | None, why: str
) -> None:
    monkeypatch.setattr(device, "_NVIDIA_DRIVER", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert why in str(device.why_no_gpu())
    monkeypatch.setattr(device, "_NVIDIA_DRIVER", tmp_path / "none")
    assert device.why_no_gpu() is None


def test_after_an_error_nobody_waits_for_ranks_that_still_wait_in_a_collective(
    monkeypatch: pytest.MonkeyPatch, group: Group
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with start_job():
        pass
    assert group.left == ["left"]
    with pytest.raises(SystemExit), start_job():
        raise SystemExit(1)
    assert group.left == ["left", "broken off"]


@pytest.mark.parametrize("on_gpu", [True, False])
def test_after_an_error_nobody_waits_for_a_group_that_cannot_be_left(
    monkeypatch: pytest.MonkeyPatch, group: Group, on_gpu: bool
) -> None:
    """The second rank of two, for whom the first waits in a collective."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for owner, name in ((dist, "destroy_process_group"), (dist.distributed_c10d, "_abort_process_group")):
        monkeypatch.setattr(owner, name, lambda: threading.Event().wait())
    monkeypatch.setattr(job, "_LEAVING_S", 0.1)
    began = time.monotonic()
    with pytest.raises(SystemExit), start_job():
        raise SystemExit(1)
    assert time.monotonic() - began < 5


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
