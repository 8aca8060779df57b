"""The name that a driver gives a GPU, and the peak that an MFU is measured by."""

from __future__ import annotations

import pytest
import torch

from umt_ds.engine.gpus import gpu_called
from umt_ds.engine.speed import peak_flops


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA H20", 148),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
    ],
)
def test_a_part_is_told_from_its_relatives(name: str, teraflops: float) -> None:
    found = gpu_called(name)
    assert found is not None
    assert found.half_flops == teraflops * 1e12


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 4090", "NVIDIA A100X", "NVIDIA H100 80GB HBM3 MIG 3g.40gb", ""])
def test_what_has_no_data_sheet_here_is_measured_instead_of_guessed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_called(name) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr("umt_ds.engine.speed._measured_matmul", lambda device: 5e13)
    assert peak_flops(torch.device("cuda")) == (5e13, "measured matrix product")


def test_the_data_sheet_is_named_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A10G")
    assert peak_flops(torch.device("cuda")) == (70e12, "NVIDIA A10G, data sheet")
