"""The loader's promises: the same draws, pixels and digests however ranks, workers and restarts cut them."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.loading import PLAN, SPARSE, assert_same, global_batch, spec, training_view, write_noise
from tests.support.shards import key_of_sample, noisy_frames, write_shards
from umt_ds.batch import Batch
from umt_ds.data.clips import read_clip
from umt_ds.data.loader import Loader, SourceSpec
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.pipeline import WorkerPool
from umt_ds.data.pixels.rand_augment import RandAugment, parse_rand_augment
from umt_ds.data.shards import source as source_module
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.errors import ConfigError
from umt_ds.keyed import Stream, add_digests

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("noisy"))


@pytest.fixture(scope="module")
def unbroken(folder: Path) -> list[Batch]:
    """Eight steps of one rank without workers: 96 draws, more than two passes."""
    return global_batch(folder, range(8))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_global_batches_do_not_depend_on_ranks_workers_or_accumulation(
    folder: Path, unbroken: list[Batch], world: int, workers: int, accumulation: int
) -> None:
    cut = global_batch(folder, range(3, 6), world=world, workers=workers, accumulation=accumulation)
    for step, batch in enumerate(cut, start=3):
        assert_same(batch, unbroken[step])


def test_steps_walk_through_the_draws_and_passes_show_everything_once(unbroken: list[Batch]) -> None:
    draws = torch.cat([b.draws for b in unbroken]).tolist()
    keys = [key for b in unbroken for key in b.keys]
    assert draws == list(range(96))
    assert sorted(keys[:40]) == sorted(keys[40:80]) == [key_of_sample(n) for n in range(40)]
    assert keys[:40] != keys[40:80]
    assert all(b.slots.tolist() == list(range(12)) for b in unbroken)
    assert len({b.digest for b in unbroken}) == 8


def test_rank_and_accumulation_take_contiguous_runs(folder: Path) -> None:
    plan = replace(PLAN, micro=2, accumulation=3, world=2, rank=1)
    loader = Loader([spec(folder)], plan)
    # s·G + (a·R + r)·b with s=5, G=12, R=2, r=1, b=2
    assert [b.draws.tolist() for b in loader.micro_batches(5)] == [[62, 63], [66, 67], [70, 71]]
    assert [b.slots.tolist() for b in loader.micro_batches(6)] == [[2, 3], [6, 7], [10, 11]]


def test_a_view_is_the_keyed_crop_of_the_keyed_frames(folder: Path, unbroken: list[Batch]) -> None:
    """By hand: find the sample, choose its frames, crop them."""
    source = source_module.ShardSource(folder)
    for row in (0, 7):
        draw = 12 + row
        ref = next(r for r in source.refs() if source.key(r) == unbroken[1].keys[row])
        choose = partial(SPARSE.choose, stream=Stream(3, "frames", draw))
        clip = read_clip(source, ref, choose=choose, with_record=False)
        view = training_view(clip.frames, side=16, stream=Stream(3, "augment", draw, 0), flip=True)
        assert np.array_equal(unbroken[1].pixels[row].numpy(), view)


@pytest.mark.parametrize("seed", range(3))
def test_a_restart_at_any_step_and_world_size_continues_the_digests(
    folder: Path, unbroken: list[Batch], seed: int
) -> None:
    chance = random.Random(seed)
    step, world, workers = chance.randrange(1, 8), chance.choice([2, 3, 4]), chance.choice([0, 2])
    resumed = global_batch(folder, range(step, 8), world=world, workers=workers)
    assert [b.digest for b in resumed] == [b.digest for b in unbroken[step:]]


def test_jumping_to_another_step_restarts_and_consecutive_steps_do_not(
    folder: Path, unbroken: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[int] = []
    real_start = Loader.start

    def noted_start(self: Loader, step: int) -> None:
        starts.append(step)
        real_start(self, step)

    monkeypatch.setattr(Loader, "start", noted_start)
    loader = Loader([spec(folder)], replace(PLAN, micro=6, accumulation=2), label_field="label")
    shown = {step: add_digests(*(b.digest for b in loader.micro_batches(step))) for step in (4, 5, 6, 1, 2)}
    assert shown == {step: unbroken[step].digest for step in shown}
    next(loader.micro_batches(3))  # abandoned half-way
    assert add_digests(*(b.digest for b in loader.micro_batches(3))) == unbroken[3].digest
    assert starts == [4, 1, 3]


def test_a_worker_has_one_thread_however_many_the_trainer_has() -> None:
    """Else each of a rank's workers would start as many threads as the node has cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    pipeline = WorkerPool(lambda _: torch.get_num_threads(), first=0, num_workers=1, prefetch=1, stall_limit_s=60)
    assert pipeline.take() == 1
    pipeline.close()
    torch.set_num_threads(before)


# ---------------------------------------------------------------- several views of a clip


def test_repeated_augmentation_shows_a_clip_in_neighbouring_rows(folder: Path, unbroken: list[Batch]) -> None:
    plan = replace(PLAN, micro=3, world=2, rank=1, accumulation=2, num_sample=2)
    batch = list(Loader([spec(folder)], plan, label_field="label").micro_batches(1))[1]
    # draws 12 + (1·2 + 1)·3 = 21, 22, 23; slots are twice the place in the step
    assert batch.draws.tolist() == [21, 21, 22, 22, 23, 23]
    assert batch.slots.tolist() == [18, 19, 20, 21, 22, 23]
    assert batch.keys == tuple(key for key in unbroken[1].keys[9:] for _ in range(2))
    assert batch.pixels.shape == (6, 3, 16, 16, 3)
    assert torch.equal(batch.pixels[::2], unbroken[1].pixels[9:])  # the first copy is the only one of num_sample=1
    assert not any(torch.equal(batch.pixels[i], batch.pixels[i + 1]) for i in (0, 2, 4))
    assert batch.targets.labels is not None
    assert unbroken[1].targets.labels is not None
    assert torch.equal(batch.targets.labels[::2], unbroken[1].targets.labels[9:])


@pytest.mark.parametrize(("world", "accumulation", "workers"), [(2, 1, 0), (1, 2, 2), (2, 3, 2)])
def test_fine_tuning_resumes_with_the_same_views_however_it_is_cut(
    folder: Path, world: int, accumulation: int, workers: int
) -> None:
    """RandAugment, random crops and two views of each clip, from step 2 on."""
    plan = replace(
        PLAN,
        num_sample=2,
        crop="random_resized",
        scale=(0.08, 1.0),
        filter="bilinear",
        antialias=False,
        rand_augment=parse_rand_augment("rand-m7-n4-mstd0.5-inc1"),
        num_classes=40,
    )
    unbroken = global_batch(folder, range(4), plan=plan)
    resumed = global_batch(folder, range(2, 4), world=world, accumulation=accumulation, workers=workers, plan=plan)
    for one, other in zip(resumed, unbroken[2:], strict=True):
        assert_same(one, other)
    views = unbroken[0].pixels.unflatten(0, (12, 2))
    assert not any(torch.equal(*pair) for pair in views)


def test_rand_augment_leaves_all_other_draws_as_they_are(folder: Path) -> None:
    """Nothing but the pixels: with nothing to apply, those are the same too."""
    none, plain = (
        global_batch(folder, range(1), plan=replace(PLAN, rand_augment=augment))[0]
        for augment in (RandAugment(7.0, num_operations=0), None)
    )
    assert_same(none, plain)


# ---------------------------------------------------------------- several sources


def test_two_sources_are_mixed_by_weight_each_in_its_own_order(tmp_path: Path, folder: Path) -> None:
    other = write_shards(tmp_path, [30], first=100, members=noisy_frames)
    specs = [spec(folder, name="a", weight=3), spec(other, name="b", weight=1)]
    plan = replace(PLAN, global_draws=4096, micro=64, accumulation=64, image_side=1)
    loader = Loader(specs, plan)
    assert loader.num_samples == 70
    batches = list(loader.micro_batches(0))
    assert loader.fingerprints["b"] == source_module.ShardSource(other).fingerprint
    keys = [key for b in batches for key in b.keys]
    of_b = [key for key in keys if int(key.removeprefix("clip-")) >= 100]
    assert len(keys) == 4096
    assert len(of_b) == 1024
    alone = Loader([specs[1]], replace(plan, global_draws=128, micro=128, accumulation=1))
    assert tuple(of_b[:128]) == next(alone.micro_batches(0)).keys


def test_sources_that_do_not_fit_together_are_refused(folder: Path) -> None:
    long = SourceSpec("long", folder, FramePolicy("sparse", 8))
    for specs, reason in [
        ([], "empty"),
        ([spec(folder), long], "same number of frames"),
        ([spec(folder), spec(folder)], "same name"),
        ([spec(folder, name="a", weight=1), spec(folder, name="b")], "every source a weight"),
    ]:
        with pytest.raises(ConfigError, match=reason):
            Loader(specs, PLAN)


@pytest.mark.parametrize(("views", "warned"), [("recognition:8x4", 1), ("all", 0), (None, 0)])
def test_a_set_made_for_evaluation_is_warned_of(
    views: str | None, warned: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_noise(tmp_path)
    replace(load_manifest(folder), options={"made_with": {"views": views}}).save(folder)
    Loader([spec(folder)], PLAN).close()
    assert caplog.text.count("made with --views") == warned


@pytest.mark.parametrize(
    "wrong",
    [
        {"global_draws": 13},
        {"rank": 1},
        {"image_side": 0},
        {"num_workers": -1},
        {"skip_draws": ((5, 5),)},
        {"skip_draws": ((-1, 5),)},
    ],
)
def test_impossible_plans_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        replace(PLAN, **wrong)
