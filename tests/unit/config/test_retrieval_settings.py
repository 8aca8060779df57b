"""Settings of retrieval: the objective that they mean, and what is said of those that count for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.retrieval_runs import retrieval_yaml
from umt_ds.config.effect import without_effect
from umt_ds.config.load import load_run
from umt_ds.config.tasks.retrieval import RetrievalConfig
from umt_ds.errors import ConfigError

IMAGES = "data.sources.clips.media=image"


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
