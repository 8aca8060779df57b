"""A task moves in: one folder, one file of settings, one line in each of two lists; and, as it is judged in a way of
its own, a class in a third. Then it is trained, evaluated, planned, looked at, reported and measured, in a copy of the
package in which nothing else was changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.support.paths import REPO
from tests.support.ranks import environment
from tests.support.shards import picture, write_shards
from tests.support.videos import write_video
from umt_ds.engine.metrics_file import read_metrics, read_scores

TOY = REPO / "tests" / "support" / "toy_task"
LISTS = {  # file: (what stands there, what stands there with the toy)
    "tasks/kinds.py": (
        '        case "image_text":\n',
        '        case "toy":\n            from umt_ds.tasks.toy import room as toy\n\n            return toy\n'
        '        case "image_text":\n',
    ),
    "config/tasks/__init__.py": ("Stage1Config | ", "Stage1Config | ToyConfig | "),
    "config/evaluation.py": (
        "EvaluationConfig = Annotated[\n    KnnEvaluation\n    | ",
        """class AccuracyEvaluation(EvaluationSettings):
    kind: Literal["accuracy"]
    digits: int = Field(2, ge=0, le=6)


EvaluationConfig = Annotated[
    KnnEvaluation | AccuracyEvaluation
    | """,
    ),
}

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package and the toy in it, its shards and its YAML."""
    folder = tmp_path_factory.mktemp("house")
    shutil.copytree(REPO / "umt_ds", folder / "umt_ds", ignore=shutil.ignore_patterns("__pycache__"))
    room = folder / "umt_ds" / "tasks" / "toy"
    room.mkdir()
    (room / "__init__.py").write_text('"""The toy."""\n')
    for name in ("room.py", "task.py"):
        shutil.copy(TOY / name, room / name)
    shutil.copy(TOY / "settings.py", folder / "umt_ds" / "config" / "tasks" / "toy.py")
    for file, (old, new) in LISTS.items():
        path = folder / "umt_ds" / file
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))
    of_kinds = folder / "umt_ds" / "config" / "tasks" / "__init__.py"
    imported = "from umt_ds.config.tasks.toy import ToyConfig\n"
    of_kinds.write_text(of_kinds.read_text().replace("\nTaskConfig =", f"{imported}\nTaskConfig ="))
    shutil.copy(TOY / "toy.yaml", folder)
    write_shards(folder / "data" / "train", (6, 6), members=clip)
    write_shards(folder / "data" / "val", (5,), members=clip, first=12)
    write_video(folder / "bright.mp4", pictures=[np.full((48, 64, 3), 200, np.uint8)] * 6)
    return folder


def clip(number: int) -> Mapping[str, bytes]:
    """Four frames of noise, of which those of class 1 are brighter."""
    label = number % 2
    noise = np.random.default_rng(number).integers(128 * label, 128 + 128 * label, (4, 32, 40, 3), dtype=np.uint8)
    frames = {f"{place:03d}.png": picture(image) for place, image in enumerate(noise)}
    return {"json": json.dumps({"label": label}).encode(), **frames}


def python(house: Path, *words: str) -> str:
    """What Python prints that imports the house's package. Fails where it fails."""
    env = {**environment(), "PYTHONPATH": f"{house}:{REPO}"}
    command = [sys.executable, *words]
    ended = subprocess.run(command, cwd=house, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def trained(house: Path) -> Path:
    """Its run folder."""
    python(house, "-m", "umt_ds", "train", "toy.yaml", "--ranks", "2")
    return house / "runs" / "toy"


# The machine itself is not looked at: that takes half a minute and knows nothing of tasks.
TELL = """
import json, sys
from click.testing import CliRunner
from umt_ds.cli import umt
from umt_ds.preflight import run_checks
run_checks._machine_checks = lambda config, disk: {}
found = []
for words in json.loads(sys.argv[1]):
    ended = CliRunner().invoke(umt, words)
    code = getattr(ended.exception, "exit_code", ended.exit_code)
    found.append([code, ended.stdout + ended.stderr + str(ended.exception or "")])
json.dump(found, sys.stdout)
"""


COMMANDS = {
    "config": ["config", "toy.yaml"],
    "plan": ["plan", "toy.yaml", "--gpus", "2", "--no-measure-loader"],
    "doctor": ["doctor", "toy.yaml"],
    "report": ["report", "runs/toy"],
    "eval": ["eval", "runs/toy", "-o", "scores.json"],
    "predict": ["predict", "runs/toy", "bright.mp4"],
    "by kind": ["eval", "runs/toy", "--kind", "accuracy", "--shards", "data/train"],
    "loader": ["bench", "loader", "toy.yaml", "--against", "plain", "--rounds", "1", "--workers", "1"],
}
REFUSED = {
    "a teacher in FP8": (["bench", "fp8", "toy.yaml"], "task.kind toy has no teacher"),
    "its plain twin": (["bench", "step", "toy.yaml", "--against", "plain"], "task.kind toy has no plain twin"),
    "captions": (["predict", "runs/toy", "bright.mp4", "--caption", "a"], "--caption: this run tells classes apart"),
    "images": (["bench", "step", "toy.yaml", "--media", "image"], "--media: task.kind toy learns from clips alone"),
    "another evaluation": (
        ["config", "toy.yaml", "evaluation.x={kind: retrieval, shards: a}"],
        "evaluation.x.kind: a run of task.kind toy is judged by accuracy, not by retrieval",
    ),
}


@pytest.fixture(scope="module")
def told(house: Path, trained: Path) -> dict[str, tuple[int, str]]:
    """Exit code and output of each command, by name: all in one process."""
    commands = COMMANDS | {name: words for name, (words, _) in REFUSED.items()}
    ended = json.loads(python(house, "-c", TELL, json.dumps(list(commands.values()))))
    return dict(zip(commands, map(tuple, ended), strict=True))


def test_it_learns_on_two_ranks(trained: Path) -> None:
    losses = [record["loss"] for _, record in sorted(read_metrics(trained).items())]
    assert len(losses) == 6
    assert losses[-1] < losses[0] / 2


def test_it_is_judged_by_an_evaluator_of_its_own_while_it_trains(trained: Path) -> None:
    found = read_scores(trained / "metrics.jsonl")
    assert [(one.step, one.evaluation, one.values) for one in found] == [
        (3, "held_out", {"accuracy": 100.0}),
        (6, "held_out", {"accuracy": 100.0}),
    ]


def test_it_is_reported(trained: Path, told: dict[str, tuple[int, str]]) -> None:
    code, said = told["report"]
    assert (code, "runs/toy/report/index.html" in said) == (0, True), said
    page = (trained / "report" / "index.html").read_text()
    assert "2 classes told apart by their colours" in page
    assert "toy: one of 2 classes by the colours of 4 x 4 cells" in page


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("config", ["kind: toy", "cells: 4"]),
        # 2 classes x (2 frames x 16 cells x 3 colours + 1)
        ("plan", ["194 trained parameters", "held_out: 5 clips in"]),
        ("doctor", ["ok      shards of clips", "ok      evaluation.held_out.shards"]),
        ("eval", ["accuracy", "100.0"]),
        ("predict", ["bright.mp4   probability\n  class 1 "]),
        ("by kind", ["accuracy", "100.0"]),
        ("loader", ["umt_ds, 1 worker"]),
    ],
)
def test_it_is_told_and_planned_and_looked_at(command: str, said: list[str], told: dict[str, tuple[int, str]]) -> None:
    code, output = told[command]
    assert code == 0, output
    assert [words for words in said if words not in output] == [], output


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_has_not_is_refused_with_one_error(what: str, told: dict[str, tuple[int, str]]) -> None:
    code, output = told[what]
    assert (code, REFUSED[what][1] in output) == (2, True), output


@pytest.mark.parametrize("data", ["synthetic", "shards"])
def test_its_step_is_measured(house: Path, data: str) -> None:
    words = ("bench", "step", "toy.yaml", "--data", data, "--rounds", "1", "--steps", "1")
    assert "2 classes, 2 frames of 32 px" in python(house, "-m", "umt_ds", *words)
