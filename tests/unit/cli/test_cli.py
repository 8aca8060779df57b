"""The command `umt` from outside: quick, torch-free, one clear message and an exit code for what is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.support.ranks import environment
from umt_ds import __version__
from umt_ds.config.load import run_names

# Runs umt_ds as `python -m` does, and tells at the end whether torch came along.
WITH_TORCH_TOLD = """
import atexit, runpy, sys
atexit.register(lambda: print("\\nLOADED", *sorted({"torch", "deepspeed"} & sys.modules.keys()), file=sys.stderr))
sys.argv[0] = "umt"
runpy.run_module("umt_ds", run_name="__main__")
"""


def umt(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`python -m umt_ds …` in the test's environment less UMT_*, plus `variables`."""
    env = {name: value for name, value in environment().items() if not name.startswith("UMT_")}
    command = [sys.executable, "-m", "umt_ds", *arguments]
    return subprocess.run(command, env={**env, **variables}, capture_output=True, text=True, timeout=60, check=False)


# ---------------------------------------------------------------- quick and light


def test_help_answers_within_half_a_second() -> None:
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        assert umt("--help").returncode == 0
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.5


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["config", "--help"],
        ["report", "--help"],
        ["eval", "--help"],
        ["eval", "no/such_run"],
        ["probe", "--help"],
        ["probe", "no/such_run", "--train", "a", "--val", "b"],
        ["config"],
        ["config", "stage1/b16_k710"],
        ["config", "stage1/l16_k710", "--against", "stage1/b16_k710"],
        ["train", "no/such_run"],
        ["train", "demo/stage1", "batch.mcro=3"],
    ],
    ids=" ".join,
)
def test_an_answer_without_training_loads_no_torch(arguments: list[str]) -> None:
    command = [sys.executable, "-c", WITH_TORCH_TOLD, *arguments]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode in (0, 2), ended.stderr
    assert ended.stderr.splitlines()[-1] == "LOADED"


def test_the_probe_of_the_test_above_would_see_torch() -> None:
    code = "import sys, types; sys.modules['torch'] = types.ModuleType('torch')" + WITH_TORCH_TOLD
    ended = subprocess.run([sys.executable, "-c", code, "--help"], env=environment(), capture_output=True, text=True)
    assert ended.stderr.splitlines()[-1] == "LOADED torch"


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("command", ["train", "config", "eval", "probe", "report", "verify-run", "doctor", "plan"])
def test_every_command_is_listed_and_shows_a_real_example(command: str) -> None:
    assert f"\n  {command} " in umt("--help").stdout
    own = umt(command, "--help").stdout
    assert f"umt {command} " in own.partition("For example:")[2]


def test_the_version_is_the_package_s() -> None:
    assert umt("--version").stdout == f"umt, version {__version__}\n"


def test_the_deepspeed_launcher_s_local_rank_is_accepted_before_the_command() -> None:
    """`deepspeed --module umt_ds config` runs `python -m umt_ds --local_rank=0 config`."""
    ended = umt("--local_rank=0", "config")
    assert (ended.returncode, ended.stdout) == (0, umt("config").stdout)


# ---------------------------------------------------------------- umt config


def test_config_alone_lists_the_shipped_runs() -> None:
    """A line a folder, so that a hundred runs of a few corpora are read at a glance."""
    listed = umt("config").stdout
    assert listed.splitlines()[-1].split() == ["zero_shot/msvd/", "b16", "l16"]
    assert "retrieval/msrvtt/ b16_5m b16_17m b16_25m l16_5m l16_17m l16_25m" in " ".join(listed.split())
    assert max(map(len, listed.splitlines())) <= 118
    assert len(listed.split()) - len(re.findall(r"^\S", listed, re.M)) == len(run_names())


def test_config_of_a_run_is_all_of_it_with_overrides_and_unset_variables_still_to_be_seen() -> None:
    tree = yaml.safe_load(umt("config", "stage1/b16_k710", "batch.micro=32", UMT_DATA="/big").stdout)
    assert (tree["batch"]["global"], tree["batch"]["micro"]) == (2048, 32)
    assert tree["cadence"]["log"] == 20
    assert tree["data"]["sources"]["k710"]["shards"] == "/big/k710/train"
    assert tree["task"]["teacher"]["weights"] == "${env:UMT_CLIP_B16}"


def test_config_against_another_run_shows_what_differs_and_nothing_else() -> None:
    lines = umt("config", "stage1/l16_k710", "seed=4", "--against", "stage1/b16_k710").stdout.splitlines()
    assert lines == [
        "name: stage1_b16_k710 → stage1_l16_k710",
        "seed: 0 → 4",
        "task.student.drop_path: 0.1 → 0.2",
        "task.student.preset: vit_b16 → vit_l16",
        "task.teacher.preset: clip_b16 → clip_l14",
        "task.teacher.weights: ${env:UMT_CLIP_B16} → ${env:UMT_CLIP_L14}",
    ]
    assert umt("config", "demo/stage1", "--against", "demo/stage1").stdout == ""


# ---------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["config", "stage1/b16_k71"], ["no run is called 'stage1/b16_k71'", "did you mean stage1/b16_k710?"]),
        (["train", "stage1/b16_k71"], ["no run is called 'stage1/b16_k71'", "did you mean stage1/b16_k710?"]),
        (["config", "demo/stage1", "batch.mcro=3"], ["batch.mcro: unknown key", "batch.micro exists"]),
        (["train", "demo/stage1", "batch.mcro=3"], ["batch.mcro: unknown key", "batch.micro exists"]),
        (["train", "demo/stage1", "batch.micro=few"], ["batch.micro: give a whole number", "'few'"]),
        (["train", "demo/stage1", "--ranks", "0"], ["--ranks"]),
        (["train", "stage1/b16_k710"], ["UMT_", "is not set", "b16"]),
        (["report", "x" * 300], ["too long", "xxx"]),
        (["trian"], ["No such command 'trian'"]),
        (["train"], ["Missing argument 'NAME'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_message_on_stderr_and_exit_code_two(arguments: list[str], said: list[str]) -> None:
    ended = umt(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert all(words in ended.stderr for words in said), ended.stderr
    assert "Traceback" not in ended.stderr


def test_asking_for_ranks_under_a_launcher_is_a_mistake() -> None:
    ended = umt("train", "demo/stage1", "--ranks", "2", RANK="0")
    assert ended.returncode == 2
    assert "a launcher has already done so" in ended.stderr


def test_missing_shards_are_one_message_and_exit_code_one(tmp_path: Path) -> None:
    shards = tmp_path / "no_shards"
    ended = umt("train", "demo/stage1", f"data.sources.demo.shards={shards}", "--dry-run")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert str(shards) in ended.stderr
    assert "Traceback" not in ended.stderr
