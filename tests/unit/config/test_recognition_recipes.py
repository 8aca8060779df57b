"""The recipes of recognition are the released launch files, number by number.

Source: METHOD.md, "Optimisation: recognition".
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from umt_ds.config.batching import plan_run
from umt_ds.config.evaluation import ClassificationEvaluation
from umt_ds.config.load import load_run, run_names
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.errors import ConfigError

GPUS = 16


class Released(NamedTuple):
    """What a launch file says; `rate` is that of the whole batch."""

    clips: int  # a GPU
    samples: int  # views of each
    rate: float
    warmup: int
    epochs: int
    drop_path: float
    decay: float
    checkpoint: int  # blocks
    frames: int
    side: int
    views: tuple[int, int]  # segments, crops
    weight_decay: float = 0.05


B, L = (0.1, 0.75, 0), (0.2, 0.85, 12)
RELEASED = {
    "b16_k710": Released(16, 2, 4e-4, 2, 35, *B, 8, 224, (4, 3)),
    "l16_k710": Released(16, 2, 2e-4, 2, 20, *L, 8, 224, (4, 3)),
    **{f"b16_{k}": Released(16, 2, 4e-5, 1, 5, *B, 8, 224, (4, 3)) for k in ("k400", "k600", "k700")},
    **{f"l16_{k}": Released(16, 2, 2e-5, 1, 5, *L, 8, 224, (4, 3)) for k in ("k400", "k600", "k700")},
    **{f"l16_{k}_f16": Released(8, 2, 1e-5, 1, 5, 0.2, 0.85, 16, 16, 224, (4, 3)) for k in ("k400", "k600", "k700")},
    "b16_ssv2": Released(16, 2, 4e-4, 5, 30, *B, 8, 224, (2, 3)),
    "l16_ssv2": Released(16, 2, 8e-4, 4, 14, *L, 8, 224, (2, 3)),
    "b16_mit": Released(32, 1, 2e-4, 5, 40, *B, 8, 224, (4, 3)),
    "l16_mit": Released(32, 1, 2e-4, 5, 20, *L, 8, 224, (4, 3)),
    "b16_mit_384": Released(16, 1, 1e-5, 1, 4, 0.1, 0.75, 8, 8, 384, (4, 3), 0.1),
    "l16_mit_384": Released(8, 1, 5e-6, 1, 4, 0.2, 0.85, 18, 8, 384, (6, 3), 0.1),
}


def recipe(name: str, *overrides: str) -> tuple[RunConfig, RecognitionConfig]:
    run = load_run(f"recognition/{name}", overrides, keep_unset=True)
    assert isinstance(run.task, RecognitionConfig)
    return run, run.task


def test_every_released_row_has_a_recipe() -> None:
    ours = {name.partition("/")[2] for name in run_names() if name.startswith("recognition/")}
    assert ours - {"small", "one_camera"} == {*RELEASED, "ucf101", "hmdb51"}


@pytest.mark.parametrize("name", RELEASED)
def test_a_recipe_is_the_released_one(name: str) -> None:
    run, task = recipe(name)
    plan = plan_run(run, world=GPUS, num_samples=1_000_000)
    test = run.evaluation["test"]
    assert isinstance(test, ClassificationEvaluation)
    assert plan.accumulation == 1
    assert (
        Released(
            clips=plan.micro,
            samples=run.data.num_sample,
            rate=pytest.approx(plan.peak_lr, rel=1e-9),
            warmup=run.schedule.warmup_epochs,
            epochs=run.schedule.epochs,
            drop_path=task.encoder.drop_path,
            decay=run.optim.layer_decay,
            checkpoint=task.encoder.checkpoint_blocks,
            frames=task.encoder.frames,
            side=task.encoder.image_size,
            views=(test.segments, test.crops),
            weight_decay=run.optim.weight_decay,
        )
        == RELEASED[name]
    )


@pytest.mark.parametrize("name", [*RELEASED, "ucf101", "hmdb51"])
def test_what_all_have_in_common(name: str) -> None:
    run, task = recipe(name)
    assert run.optim.betas == (0.9, 0.999)
    assert (run.optim.min_lr, run.optim.warmup_lr, run.schedule.curve) == (1e-6, 1e-6, "cosine_offset")
    assert (task.smoothing, task.erasing, task.head_scale) == (0.1, 0.25, 0.001)
    assert task.mixing is not None
    assert (task.mixing.mixup, task.mixing.cutmix, task.mixing.prob, task.mixing.switch) == (0.8, 1.0, 1.0, 0.5)
    assert task.mixing.group == run.batch.micro * run.data.num_sample, "all rows of a GPU"
    assert run.data.augment.rand_augment == "rand-m7-n4-mstd0.5-inc1"
    assert (run.data.augment.scale, run.data.augment.antialias) == ((0.08, 1.0), False)
    is_ssv2 = "ssv2" in name
    (source,) = run.data.sources.values()
    assert (source.frames.policy, run.data.augment.flip) == (
        ("sparse", False) if is_ssv2 else ("kinetics_sparse", True)
    )
    val, test = run.evaluation["val"], run.evaluation["test"]
    assert isinstance(val, ClassificationEvaluation)
    assert isinstance(test, ClassificationEvaluation)
    assert {val.frames, test.frames} == {"published"}
    assert {val.rule, test.rule} == {"ssv2" if is_ssv2 else "recognition"}
    assert (val.segments, val.crops, val.in_training, test.in_training) == (1, 1, True, False)
    assert run.cadence.keep_best == "val/top1"


def test_the_best_of_what_is_only_tested_afterwards_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"never measured, because evaluation\.test\.in_training is false"):
        recipe("b16_k400", "cadence.keep_best=test/top1")
    assert list(recipe("b16_k400")[0].evaluations_in_training) == ["val"]


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        (["batch.micro=8"], "task.mixing.group=16, or task.mixing=null"),
        (["batch.micro=7", "data.num_sample=1"], "a batch.micro with an even number of rows"),
    ],
)
def test_a_smaller_micro_batch_is_told_the_group_that_fits_it(override: list[str], hint: str) -> None:
    with pytest.raises(ConfigError, match=r"task\.mixing\.group: .* no multiple of 32") as raised:
        recipe("small", *override)
    assert hint in (raised.value.hint or "")
    assert recipe("small", "batch.micro=8", "task.mixing.group=16")[0].batch.micro == 8
