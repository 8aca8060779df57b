"""`umt bench kernels` has a row for each way, and all kernels compile for A100 and H100. Speed is no test."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.support.paths import REPO
from umt_ds.bench import kernels, machine
from umt_ds.bench.kernels import Case, Cost, Setup, Timing, all_cases, measure_kernel, table
from umt_ds.cli.bench import command

CPU = torch.device("cpu")


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_every_kernel_compiles_for_both_chips_without_spilling() -> None:
    """In a process of its own: here, Triton may have been imported to interpret."""
    words = [sys.executable, "-m", "umt_ds", "bench", "kernels", "--compile", "sm_80,sm_90"]
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(words, cwd=REPO, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("kernel  chip"))
    rows = [line.split(maxsplit=5) for line in lines[begin + 1 :]]
    names = ["embed", "embed", "rows", "scale"] * 2 + ["keep"]
    assert [row[0] for row in rows] == [name for name in names for _ in range(2)], "sizes B and L"
    assert [row[1] for row in rows] == ["sm_80", "sm_90"] * len(names)
    for kernel, chip, registers, stack, shared, what in rows:
        assert 0 < int(registers) <= 255, (kernel, chip, what)
        assert int(stack) == 0, f"{kernel} spills on {chip}: {what}"
        assert int(shared) < 100_000, "two programs share a processor"


def test_without_a_gpu_the_references_are_measured_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "RESULTS.md"
    results.write_text("# What was measured\n")
    monkeypatch.setattr(machine.record, "__defaults__", (results,))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(kernels, "all_cases", lambda setup: [kernels._keep(setup)])
    monkeypatch.setattr(kernels, "compiled", lambda chips, *, clips: f"compiled for {chips} with {clips} clips")
    done = CliRunner().invoke(command, ["kernels", "--rounds", "2", "--record"], catch_exceptions=False)
    assert "without a GPU: the torch references on the CPU, in fp32" in done.stdout
    assert "keep_tokens: 8 frames, 40 of 196" in done.stdout
    assert done.stdout.rstrip().endswith("compiled for [80, 90] with 32 clips")
    assert done.stdout.rstrip() in results.read_text()


def test_no_list_of_chips_is_refused() -> None:
    done = CliRunner().invoke(command, ["kernels", "--compile", "h100"])
    assert done.exit_code == 2
    assert "no list of chips such as sm_80,sm_90" in done.stderr


def test_the_rows_of_a_case_take_turns_and_are_held_against_the_prediction() -> None:
    order: list[str] = []

    def way(name: str) -> kernels.Way:
        return lambda: order.append(name) or torch.zeros(1)  # type: ignore[func-returns-value]

    case = Case("it", {"one": way("one"), "two": way("two")}, Cost(4e6, 2e9))
    timings = measure_kernel(case, rounds=3, device=CPU)
    assert [len(timing.forward) for timing in timings.values()] == [3, 3]
    assert order == ["one", "two"] * (3 + kernels._WARM_UPS)
    text = table(case, {"one": Timing([2.0, 1.0, 4.0], [], 5_000_000)})
    assert text.splitlines()[1] == "  predicted: forward 4.00 MB, 2.000 GFLOP"
    assert text.splitlines()[3].split() == ["one", "2.000", "(1.000-4.000)", "2.0", "1,000", "-", "-", "-", "5.0"]


def test_predictions_are_those_counted_by_hand() -> None:
    """A clip, student B in bf16: 320 patches of 768 bytes to 768 features."""
    cases = all_cases(Setup(1, torch.device("meta"), torch.bfloat16))
    embed = next(cases)
    pixels, weight, tokens = 320 * 768, 768 * 768 * 2, 320 * 768 * 2
    assert embed.forward.flops == 2 * 320 * 768 * 768
    assert embed.forward.bytes == pixels + weight + tokens + 8 * 320 + 4 * 1568 * 768
    align, attention = next(case for case in cases if case.title.startswith("align_loss")), next(cases)
    assert align.forward.bytes == 3 * 320 * 512 * 2
    assert attention.forward.flops == 2 * (2 * 320 * 320 * 64) * 12
    assert attention.backward is not None
    assert attention.backward.flops == 2.5 * attention.forward.flops


def test_the_header_names_gpus_and_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 560.35.03'\necho 'NVIDIA H100 80GB HBM3, 560.35.03'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "gpu:     2 x NVIDIA H100 80GB HBM3, driver 560.35.03" in machine.header("umt bench", ())
    tool.unlink()
    assert not any(line.startswith("gpu:") for line in machine.header("umt bench", ()))
