"""Every shipped recipe trains, and code reads each of its settings: a few in `make test`, all in `make test-slow`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from tests.support.ranks import call, run_ranks
from tests.support.recipes import AFTER_STAGE2, map_ordered, smaller, variables, write_world
from umt_ds.config.effect import without_effect
from umt_ds.config.load import load_run, run_names
from umt_ds.config.tasks.retrieval import RetrievalConfig
from umt_ds.config.tasks.stage2 import Stage2Config
from umt_ds.engine.metrics_file import read_metrics
from umt_ds.errors import EXIT_DONE, EXIT_STOPPED

SOME = (
    "demo/teacher", "stage1/b16_k710", "recognition/b16_k710", "stage2/ablations/one_stage",
    "stage2/ablations/align_visual_text",
)  # fmt: skip

# Settings that a run of these recipes need not read, and what does read them. All others it must read: what no code
# reads is skipped without a word. (What is read and yet counts for nothing: `tests/unit/config/test_effect.py`.)
READ_ELSEWHERE = {
    "cadence.async_save": "a save that does not end the run",
    "data.cache.*": "shards that are remote",
    "data.sources.*.samples": "streamed tars",
    "data.sources.questions.caption": "the schema of question answering, which refuses another than the default",
    "evaluation.test.*": "`umt eval`",
    "init.ema": "a run that starts from another one's weights",
    "optim.layer_decay": "recognition; the schema refuses it elsewhere",
    "schedule.decay_epochs": "a schedule in epochs",
    "schedule.decay_steps": "a schedule in steps",
    "task.head": "weights that have a head",
    "schedule.epochs": "a schedule in epochs",
    "schedule.warmup_epochs": "a schedule in epochs",
    "schedule.warmup_steps": "a schedule in steps",
    "task.mask.*.views": "the schema, which refuses more than one in stage 2",
    "task.text.sizes": "a BERT given by numbers",
}


@dataclass(frozen=True)
class Trained:
    """What came of a recipe: the records of its steps, and the settings that nothing read."""

    records: dict[int, dict[str, Any]]
    unread: list[str]


def train(folder: Path, *names: str) -> dict[str, Trained]:
    """All in one process, by name."""
    write_world(folder)
    calls = [call("tests.distributed.recipe_calls:train_recipe", name=name) for name in names]
    (results,) = run_ranks(1, [call("tests.distributed.recipe_calls:enter", folder=str(folder)), *calls])
    done = dict(zip(names, results[1:], strict=True))
    assert {name: one for name, one in done.items() if one["code"] not in (EXIT_DONE, EXIT_STOPPED)} == {}
    for name in names:  # what it ran with, all settings written out, is a run itself
        assert load_run(str(folder / run_of(name) / "config.yaml")).task == load_run(name, smaller(name)).task
    return {name: Trained(read_metrics(folder / run_of(name)), one["unread"]) for name, one in done.items()}


def run_of(name: str) -> Path:
    return Path("runs") / name


def parts_of(name: str) -> set[str]:
    """The losses that a recipe must have shown, by their names in the log."""
    run = load_run(name)
    task = run.task
    if isinstance(task, RetrievalConfig):
        return {f"video_{part}" for part, weight in task.loss_weights if weight}
    if not isinstance(task, Stage2Config):
        others = {"stage1": "uta", "recognition": "ce", "question_answering": "answers"}
        return {others.get(task.kind, "contrastive")}
    parts = {part for part, weight in task.loss_weights if weight}
    parts |= {"align_visual"} if task.align_projections != "none" else set()
    parts |= {"align_text"} if task.align_projections == "visual_text" else set()
    return {f"{source.media}_{part}" for source in run.data.sources.values() for part in parts}


def assert_trained(name: str, trained: Trained) -> None:
    """It showed what the recipe names, no sample was bad, and there is something to learn."""
    assert trained.records[1]["draws"] == 4
    assert parts_of(name) <= set().union(*trained.records.values()), name
    for record in trained.records.values():
        assert math.isfinite(record["loss"]), name
        assert record["grad_norm"] > 0, name
        assert record["bad_samples"] == 0, name


def read_elsewhere(key: str) -> set[str]:
    return {pattern for pattern in READ_ELSEWHERE if fnmatch(key, pattern)}


@pytest.fixture(autouse=True)
def of_the_recipes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable, place in variables(tmp_path).items():
        monkeypatch.setenv(variable, place)


def test_some_recipes_train_from_real_shards_and_each_setting_is_read(tmp_path: Path) -> None:
    for name, trained in train(tmp_path, *SOME).items():
        assert_trained(name, trained)
        assert [key for key in trained.unread if not read_elsewhere(key)] == [], name


@pytest.mark.slow
def test_every_shipped_recipe_trains_from_real_shards_and_each_setting_is_read(tmp_path: Path) -> None:
    names = map_ordered()
    assert sorted(names) == sorted(name for name in run_names() if not name.startswith(AFTER_STAGE2))
    excused = set()
    for name, trained in train(tmp_path, *names).items():
        assert_trained(name, trained)
        assert [key for key in trained.unread if not read_elsewhere(key)] == [], name
        excused |= {pattern for key in trained.unread for pattern in read_elsewhere(key)}
    assert excused == set(READ_ELSEWHERE), "no excuse outlives its reason"


STAGE2 = (
    "task.teacher.weights=random", "init.weights=null", "schedule.warmup_steps=0", "task.text.dropout=0.1",
    "evaluation.retrieval.rerank=null",  # which is refused where matching is not learned
)  # fmt: skip
NO_UTA = "task.loss_weights.uta=0"
# Of each variant: what it says counts for nothing, at another value. Each pair must have the same numbers.
IDLE: dict[tuple[str, ...], list[str]] = {
    (NO_UTA,): ["task.teacher.layers=2", "task.loss=mse", "task.mask.image.ratio=0.2", "task.mask.video.ratio=0.2"],
    (NO_UTA, "task.align_projections=visual"): [
        "task.teacher.layers=2", "task.teacher.interval=1.5", "task.teacher.norm=none",
    ],
    ("task.mask.video.ratio=0",): ["task.mask.video.kind=tube"],
    ("data.sources.clips.media=image",): ["task.student.frames=2", "task.mask.video.ratio=0.2", "batch.media=packed"],
    ("task.loss_weights.vtc=0",): ["task.vtc.gather=sliced", "batch.pack=8"],
    ("task.loss_weights={vtc: 0, vtm: 0}",): ["task.vtc.temperature=0.2", "task.vtc.bounds=[0.01, 0.4]"],
    ("task.loss_weights.vtm=0",): ["task.vtm.hard=true", "task.vtm.negatives=global", "data.cache.max_gb=1"],
    ("task.loss_weights.mlm=0",): ["task.mlm.ratio=0.2", "task.mlm.mean=global"],
}  # fmt: skip


@pytest.mark.slow
def test_what_is_said_to_have_no_effect_has_none_and_its_variant_has_one(tmp_path: Path) -> None:
    write_world(tmp_path)
    runs: list[tuple[str, ...]] = [STAGE2]
    for variant, idle in IDLE.items():
        runs += [(*STAGE2, *variant), *((*STAGE2, *variant, setting) for setting in idle)]
    calls = [call("tests.distributed.recipe_calls:numbers_of", name="demo/stage2", overrides=list(o)) for o in runs]
    (results,) = run_ranks(1, [call("tests.distributed.recipe_calls:enter", folder=str(tmp_path)), *calls])
    numbers = dict(zip(runs, results[1:], strict=True))
    for variant, idle in IDLE.items():
        without = numbers[(*STAGE2, *variant)]
        assert without != numbers[STAGE2], variant
        for setting in idle:
            assert numbers[(*STAGE2, *variant, setting)] == without, (variant, setting)
            said = " ".join(without_effect(load_run("demo/stage2", [*STAGE2, *variant, setting])))
            assert setting.partition("=")[0].startswith(tuple(re.findall(r"(\S+) has no effect here", said)))
