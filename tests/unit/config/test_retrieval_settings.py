"""Settings of retrieval: the objective that they mean, and what is said of those that count for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.retrieval_runs import retrieval_yaml
from umt_ds.config.batching import plan_run
from umt_ds.config.effect import without_effect
from umt_ds.config.load import load_run
from umt_ds.config.tasks.retrieval import RetrievalConfig
from umt_ds.errors import ConfigError
from umt_ds.tasks.loader import check_media

IMAGES = "data.sources.clips.media=image"
_GLOBAL = "task.vtm.negatives=global"


def test_the_objective_is_that_of_stage_2_with_its_two_losses_and_nothing_hidden() -> None:
    config = RetrievalConfig.model_validate({"kind": "retrieval", "text": {"weights": "/bert"}})
    objective = config.objective
    weights = objective.loss_weights
    assert (weights.vtc, weights.vtm, weights.mlm, weights.uta) == (1, 1, 0, 0)
    assert objective.mask_of("video") is objective.mask_of("image") is objective.teacher is None
    assert not objective.needs_teacher
    assert objective.clip_shape == config.clip_shape == (12, 224)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["task.loss_weights.vtc=0"], ["task.vtc.gather"]),
        (["task.loss_weights.vtm=0", "task.vtm.hard=true"], ["task.vtm"]),
        (["task.loss_weights.vtc=0", "task.vtm.hard=false", "task.vtc.temperature=0.1"],
         ["task.vtc.gather", "task.vtc.temperature"]),
        ([IMAGES], ["task.encoder.frames", "batch.media"]),
        ([], []),
    ],
)  # fmt: skip
def test_what_counts_for_nothing_is_said_in_keys_that_the_run_has(
    overrides: list[str], said: list[str], tmp_path: Path
) -> None:
    run = load_run(retrieval_yaml(tmp_path), ["batch.media=alternate", *overrides, "cadence.evaluate=0"])
    lines = [line.partition(" ")[0] for line in without_effect(run)]
    assert set(lines) - {"batch.media", "cadence.evaluate", "evaluation"} == set(said) - {"batch.media"}


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("task.loss_weights={vtc: 0, vtm: 0}", "all loss_weights are 0"),
        ("task.teacher.weights=random", "unknown key"),
        ("task.mask.video.ratio=0.8", "unknown key"),
        ("task.student.frames=4", "unknown key"),
        ("engine.graph=true", "it replays a teacher, and task.kind retrieval has none"),
        ("optim.layer_decay=0.9", "trains all of its layers at one rate"),
    ],
)
def test_what_the_task_has_not_is_refused(override: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=what):
        load_run(retrieval_yaml(tmp_path), [override])


@pytest.mark.parametrize("kind", ["retrieval", "stage2"])
@pytest.mark.parametrize(
    "overrides",
    [
        ["batch.micro=1"],  # seen without a number of ranks
        ["batch.micro=1", "task.vtm.negatives=global", "batch.global=1"],
        ["batch.micro=1", "batch.global=2", "batch.split_contrastive=true"],
        ["batch.micro=1", "batch.global=1", "task.loss_weights={vtc: 1, vtm: 0}"],
    ],
)
def test_a_row_that_has_none_to_be_compared_with_is_refused(kind: str, overrides: list[str], tmp_path: Path) -> None:
    world = 1 if "batch.global=1" in overrides else 2
    with pytest.raises(ConfigError, match=r"one row.*(do not match|nothing to compare it with)") as refused:
        plan_run(load_run(retrieval_yaml(tmp_path, kind=kind), overrides), world=world, num_samples=12)
    assert "batch.micro=2" in str(refused.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["batch.micro=1", "batch.global=2", "task.vtm.negatives=global"],
        ["batch.micro=1", "batch.global=2", "task.loss_weights={vtc: 1, vtm: 0}"],
        ["batch.micro=1", "batch.global=4", "batch.split_contrastive=true"],
    ],
)
def test_a_row_on_each_rank_is_enough_where_the_others_are_seen(overrides: list[str], tmp_path: Path) -> None:
    plan = plan_run(load_run(retrieval_yaml(tmp_path), overrides), world=2, num_samples=12)
    assert plan.chunk == 1


def test_a_medium_that_is_packed_as_a_single_row_is_refused(tmp_path: Path) -> None:
    weights = ["data.sources.clips.weight=5", "data.sources.pictures.weight=1"]
    run = load_run(retrieval_yaml(tmp_path), ["batch.media=packed", "batch.pack=6", *weights])
    with pytest.raises(ConfigError, match=r"one row of images \(batch\.pack\)"):
        check_media(run, plan_run(run, world=2, num_samples=12))
    everywhere = load_run(retrieval_yaml(tmp_path), ["batch.media=packed", "batch.pack=6", *weights, _GLOBAL])
    check_media(everywhere, plan_run(everywhere, world=2, num_samples=12))
