"""`umt doctor`: what is broken becomes a line with something to do, and never breaks the doctor."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from tests.support.shards import png_frames, undecodable, write_shards
from umt_ds.cli.doctor import command
from umt_ds.config.data import CacheConfig
from umt_ds.config.load import load_run
from umt_ds.config.tasks.stage1 import Stage1Config
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.distributed.device import has_code
from umt_ds.errors import DataError, MachineError, WeightsError
from umt_ds.kernels import backend
from umt_ds.preflight import checks, input_checks, run_checks
from umt_ds.preflight.checks import Finding
from umt_ds.preflight.run_checks import run_check


def fine() -> Finding:
    return Finding("ok", "fine")


def hangs() -> Finding:
    time.sleep(60)
    return fine()


def crashes() -> Finding:
    os.kill(os.getpid(), signal.SIGKILL)
    return fine()


def fails() -> Finding:
    raise ZeroDivisionError("by\nzero")


def knows_what_to_do() -> Finding:
    raise MachineError("no disk", hint="buy one")


# ---------------------------------------------------------------- whatever a check does


@pytest.mark.parametrize(
    ("look", "line"),
    [
        (fine, "ok it fine"),
        (fails, "problem it ZeroDivisionError: by zero"),
        (knows_what_to_do, "problem it no disk; do: buy one"),
        (hangs, "problem it no answer within 1 s; do: see what it waits for: a mount, a driver?"),
        (crashes, "problem it the check crashed (exit code -9); do: install the package anew"),
    ],
)
def test_it_ends_as_one_line(look: Callable[[], Finding], line: str) -> None:
    found = str(run_check("it", look, limit_s=1))
    assert "\n" not in found
    assert " ".join(found.split()) == line


# ---------------------------------------------------------------- software


def test_this_installation_is_as_required() -> None:
    assert checks.packages().status != "problem"
    assert (checks.python().status, checks.torch_build().status) == ("ok", "ok")
    assert torch.__version__ in checks.torch_build().there


@pytest.mark.parametrize(
    ("have", "status", "said"),
    [
        (None, "problem", "timm>=1.0 (absent)"),
        ("0.9.1", "problem", "timm>=1.0 (0.9.1)"),
        ("99.0", "note", "timm 99.0 (tested: "),
        ("1.0.31+local", "ok", "all as tested"),
    ],
)
def test_a_package_that_is_absent_old_or_untested_is_named(
    have: str | None, status: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["timm>=1.0", "nothing; python_version<\'3\'"]')
    (tmp_path / "constraints.txt").write_text("# tested\ntimm==1.0.31\n")
    monkeypatch.setattr(checks, "_CHECKOUT", tmp_path)
    monkeypatch.setattr(checks, "_installed", lambda package: have)
    monkeypatch.setattr(checks, "requires", lambda package: ["timm>=1.0", 'pytest; extra == "dev"'])
    found = checks.packages()
    assert found.status == status
    assert said in found.there


def test_a_gpu_that_torch_cannot_use_is_a_problem_and_a_hidden_one_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_answer", lambda *words: "470.10, NVIDIA A100, 81920 MiB, 3 MiB")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert str(checks.cuda()).endswith("do: a driver for CUDA 13.0, or a torch >= 2.7 built for an older CUDA")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert checks.cuda().status == "note"
    monkeypatch.setattr(checks, "_answer", lambda *words: None)
    assert "cpu.json" in checks.cuda().used


TESTED = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]  # torch 2.14.1 of CUDA 13.0


@pytest.mark.parametrize(
    ("name", "capability", "bf16", "status", "said"),
    [
        ("Tesla V100-SXM2-32GB", (7, 0), False, "problem", "no code for Tesla V100-SXM2-32GB, only for sm_75, sm_80"),
        ("Tesla T4", (7, 5), False, "note", "engine.deepspeed=zero2_fp16.json"),
        ("NVIDIA L40S", (8, 9), True, "ok", "NCCL, bf16"),
        ("NVIDIA H100 PCIe", (9, 0), True, "ok", "NCCL, bf16"),
    ],
)
def test_a_gpu_that_torch_has_no_code_for_is_a_problem(
    name: str, capability: tuple[int, int], bf16: bool, status: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {
        "is_available": True, "device_count": 1, "get_device_name": name, "mem_get_info": (99, 100),
        "get_device_capability": capability, "get_arch_list": TESTED, "is_bf16_supported": bf16,
    }  # fmt: skip
    for question, answer in told.items():
        monkeypatch.setattr(torch.cuda, question, lambda *_, answer=answer, **__: answer)
    found = checks.cuda()
    assert found.status == status
    assert said in str(found)


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        ((8, 9), ["sm_80"], True),  # the same generation, later
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["sm_80", "compute_80"], True),  # compiled when it starts
        ((9, 0), ["sm_90a"], True),
        ((12, 0), ["sm_100"], False),
        ((7, 0), [], False),
    ],
)
def test_code_serves_its_own_generation_of_chips(capability: tuple[int, int], built_for: list[str], runs: bool) -> None:
    assert has_code(capability, built_for) is runs


def test_a_library_that_is_installed_but_does_not_import_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "deepspeed.py").write_text("raise OSError('libcudart.so.13 is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = checks.deepspeed()
    assert (found.status, "libcudart.so.13 is missing" in found.there) == ("problem", True)


def test_the_kernels_that_will_run_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UMT_KERNELS", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert checks.triton().used == "kernels in plain torch (Triton needs a GPU)"
    assert checks.flash_attention().used == "torch's own fused attention (flash-attn needs a GPU)"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backend, "_why_not", lambda interpreted: None)
    assert checks.triton().used == "our kernels run in Triton"
    monkeypatch.setattr(backend, "_why_not", lambda interpreted: "Triton does not work: no C compiler")
    assert (checks.triton().status, "no C compiler" in checks.triton().there) == ("note", True)
    monkeypatch.setenv("UMT_KERNELS", "fast")
    found = run_check("Triton", checks.triton)
    assert (found.status, found.todo) == ("problem", "one of auto, torch, triton")


# ---------------------------------------------------------------- ranks


def test_two_ranks_on_this_machine_add_up() -> None:
    assert checks.gloo().there.startswith("2 ranks on gloo, 16 MB added in ")


def test_ranks_that_cannot_meet_are_a_problem_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuch0")
    found = run_check("gloo", checks.gloo)
    assert found.status == "problem"
    assert "GLOO_SOCKET_IFNAME" in found.todo


def test_slurm_is_seen_from_outside_inside_and_when_it_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "torchrun" in checks.slurm().used
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(checks, "_answer", lambda *words: None)
    assert checks.slurm().status == "note"
    answers = {"--version": "slurm 24.11", "ping": "Slurmctld(primary) at host is UP"}
    monkeypatch.setattr(checks, "_answer", lambda *words: answers[words[1]])
    assert (checks.slurm().status, checks.slurm().used) == ("ok", "umt-launch")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert "inside job 17" in checks.slurm().there


# ---------------------------------------------------------------- disk, memory


def test_the_disk_is_measured_beside_a_folder_to_come_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_DISK_BYTES", 8 << 20)
    found = checks.disk(tmp_path / "runs" / "mine")
    assert found.there.startswith(f"{tmp_path}: writes ")
    assert list(tmp_path.iterdir()) == []
    assert run_check("disk", disk_of_proc).status == "problem", "nobody can write there"


def disk_of_proc() -> Finding:
    return checks.disk(Path("/proc"))


def test_shared_memory_is_held_against_the_run_s_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_run("demo/stage1", ["task.teacher.weights=random", "data.workers=2"])
    need = (2 * 2 + 1) * 16 * 8 * 64 * 64 * 3  # two workers, two batches each and one under way
    for free, status in ((need * 64, "ok"), (need - 1, "problem")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(total=free, free=free))
        assert checks.shared_memory(config).status == status
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=64 << 20, free=64 << 20))
    assert "--shm-size" in checks.shared_memory(None).todo, "docker's default"


# ---------------------------------------------------------------- what a run reads


def test_shards_are_counted_and_one_sample_is_decoded(tmp_path: Path) -> None:
    found = input_checks.shards(write_shards(tmp_path / "good"))
    assert "15 samples in 3 shards" in found.there
    assert "6 frames of 28 x 20" in found.there


def test_of_a_long_video_the_first_frames_are_decoded(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "long", (1,), members=lambda number: png_frames(number, num_frames=70))
    assert "one sample: 64 frames of 28 x 20" in input_checks.shards(folder).there


def test_a_set_for_evaluation_is_noted_where_a_run_trains_on_it(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "val")
    replace(load_manifest(folder), options={"views": "recognition:8x4 retrieval:12"}).save(folder)
    found = input_checks.shards(folder, trains=True)
    assert found.status == "note"
    assert "--views recognition:8x4 --views retrieval:12" in found.used
    assert input_checks.shards(folder).status == "ok"


def test_shards_that_are_absent_cut_or_undecodable_are_problems(tmp_path: Path) -> None:
    cut, junk = write_shards(tmp_path / "cut"), write_shards(tmp_path / "junk", members=undecodable(0))
    os.truncate(cut / "tiny-000001.tar", 1000)
    looks = {Path("${env:UMT_DATA}/k710"): "UMT_DATA is not set", tmp_path: "holds no manifest.json",
             cut: "does not match its manifest", junk: "is no picture"}  # fmt: skip
    for folder, said in looks.items():
        found = run_checks.run_check("shards", partial(input_checks.shards, folder))
        assert (found.status, said in found.there) == ("problem", True), found


def test_a_cache_that_is_larger_than_its_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5e9))
    small, large = (input_checks.cache(CacheConfig(folder=tmp_path / "not yet", max_gb=size)) for size in (4, 6))
    assert (small.status, large.status) == ("ok", "note")
    assert "5.0 GB free" in large.there


def test_streamed_tars_are_tried_and_called_inexact(tmp_path: Path) -> None:
    tar = write_shards(tmp_path, [5]) / "tiny-000000.tar"
    found = run_checks.run_check("shards", partial(input_checks.stream, f"pipe:cat {tar}"))
    assert (found.status, "inexact" in found.used) == ("note", True), found
    assert "6 frames of 28 x 20" in found.there
    absent = run_checks.run_check("shards", partial(input_checks.stream, str(tmp_path / "absent.tar")))
    assert (absent.status, "there is no tar" in absent.there) == ("problem", True)


def test_a_teacher_s_weights_are_loaded_as_a_run_loads_them(tmp_path: Path) -> None:
    task = load_run("demo/stage1", ["task.teacher.weights=random"]).task
    assert isinstance(task, Stage1Config)
    assert input_checks.teacher(task.teacher).status == "note"
    torch.save({"visual.conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError):
        input_checks.teacher(task.teacher.model_copy(update={"weights": tmp_path / "other.pth"}))
    assert "1 tensors" in input_checks.weights(tmp_path / "other.pth").there


def test_the_sets_of_evaluations_are_looked_at_like_sources(tmp_path: Path) -> None:
    knn = f"evaluation.knn={{kind: knn, shards: {tmp_path}/val, voters: {tmp_path}/train}}"
    run = load_run("demo/stage1", ["task.teacher.weights=random", knn])
    looks = run_checks._checks_of_run(run)
    write_shards(tmp_path / "val")
    assert looks["evaluation.knn.shards"]().status == "ok"
    with pytest.raises(DataError, match="train"):
        looks["evaluation.knn.voters"]()


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(("shards", "code"), [("here", 0), ("nowhere", 1)])
def test_the_exit_code_says_whether_there_is_a_problem(
    shards: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(tmp_path / "here")
    monkeypatch.setattr(run_checks, "_machine_checks", lambda config, disk: {"python": checks.python})
    words = ["demo/stage1", "task.teacher.weights=random", f"data.sources.demo.shards={tmp_path / shards}", "--json"]
    words.append(f"evaluation.knn.shards={tmp_path / 'here'}")
    ended = CliRunner().invoke(command, words)
    assert ended.exit_code == code, ended.exception
    report = json.loads(ended.stdout)
    assert report["problems"] == code
    assert [finding["name"] for finding in report["findings"]] == [
        "python",
        "shards of demo",
        "evaluation.knn.shards",
        "teacher",
    ]


def test_a_run_that_cannot_be_resolved_is_a_problem_among_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_checks, "_machine_checks", lambda config, disk: {"python": checks.python})
    ended = CliRunner().invoke(command, ["stage1/b16_k71"])
    assert ended.exit_code == 1
    assert "did you mean stage1/b16_k710?" in ended.stdout
    assert ended.stdout.splitlines()[-1].startswith("ok      python")
