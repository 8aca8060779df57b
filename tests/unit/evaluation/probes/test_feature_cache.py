"""Features on a disk: what is stored, that nothing is computed twice, and that damage is noticed."""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.shards import undecodable, write_shards
from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.errors import ConfigError, DataError, MachineError, WeightsError
from umt_ds.evaluation.probes.features import (
    FeatureRequest,
    FrozenFeatures,
    compute_features,
    find_features,
    pool_patches,
)

FRAMES, SIDE, CLIPS = 2, 16, 7


class Model:
    """Four tokens a frame, of three numbers: the colours of a quarter. Counts its passes."""

    def __init__(self) -> None:
        self.passes = 0

    def __call__(self, pixels: Tensor) -> Tensor:
        self.passes += 1
        quarters = pixels.float().unflatten(2, (2, -1)).unflatten(4, (2, -1)).mean(dim=(3, 5))  # [B,T,2,2,3]
        return quarters.flatten(1, 3)


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., FeatureRequest]:
    shards = write_shards(tmp_path / "val", (4, 3))

    def make(model: Model, *, pool: int | None = None, weights: str = "w", **more: int) -> FeatureRequest:
        clips = ClipRequest(middle_frames(FRAMES), side=SIDE, label_fields=("label",))
        items = EvaluationSet(shards, clips, batch_size=3, **more)
        return FeatureRequest(items, model, {"weights": weights}, pool)

    return make


def test_the_mean_and_the_tokens_of_each_clip_are_stored(
    tmp_path: Path, request_of: Callable[..., FeatureRequest]
) -> None:
    beats: list[int] = []
    found = compute_features(tmp_path, request_of(Model(), pool=1), beat=lambda: beats.append(1))
    assert [item.key for item in found.items] == [f"clip-{n:04d}" for n in range(CLIPS)]
    assert [item.labels for item in found.items] == [(n,) for n in range(CLIPS)]
    assert len(beats) == 3
    assert found.mean.dtype == torch.float32
    assert found.mean[:, 0].tolist() == list(range(CLIPS)), "red is the number of a clip"
    tokens = found.tokens(torch.tensor([5, 0, 5]))
    assert (tokens.dtype, tokens.shape) == (torch.float16, (3, FRAMES * 4, 3))
    assert tokens[:, 0, 0].tolist() == [5, 0, 5]
    assert tokens[0, :, 1].tolist() == [1.0] * 4 + [4.0] * 4, "green is the number of a frame"


def test_a_second_call_makes_no_pass(tmp_path: Path, request_of: Callable[..., FeatureRequest]) -> None:
    first = compute_features(tmp_path, request_of(Model(), pool=1))
    model = Model()
    again = find_features(tmp_path, request_of(model, pool=1))
    assert isinstance(again, FrozenFeatures)
    assert model.passes == 0
    assert again.items == first.items
    assert torch.equal(again.mean, first.mean)
    assert torch.equal(again.tokens(torch.arange(CLIPS)), first.tokens(torch.arange(CLIPS)))


def test_the_mean_is_found_beside_tokens_but_tokens_not_beside_a_mean(
    tmp_path: Path, request_of: Callable[..., FeatureRequest]
) -> None:
    compute_features(tmp_path, request_of(Model()))
    assert find_features(tmp_path, request_of(Model(), pool=1)) is None
    compute_features(tmp_path / "other", request_of(Model(), pool=1))
    assert find_features(tmp_path / "other", request_of(Model())) is not None
    assert find_features(tmp_path / "other", request_of(Model(), pool=2)) is None


def test_other_weights_and_another_part_of_the_set_are_other_features(
    tmp_path: Path, request_of: Callable[..., FeatureRequest]
) -> None:
    compute_features(tmp_path, request_of(Model()))
    assert find_features(tmp_path, request_of(Model(), weights="others")) is None
    assert find_features(tmp_path, request_of(Model(), limit=4)) is None


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def _change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: _flip(folder / "mean.f32"),
        lambda folder: (folder / "mean.f32").unlink(),
        lambda folder: (folder / "mean.f32").write_bytes(b""),
        lambda folder: (folder / "features.json").write_text("{"),
        lambda folder: (folder / "features.json").write_text("[]"),
        lambda folder: _change(folder / "features.json", files=3),
        lambda folder: _change(folder / "features.json", items=[3]),
        lambda folder: _change(folder / "features.json", items=[]),
        lambda folder: _change(folder / "features.json", shape=["a", None]),
        lambda folder: _change(folder / "features.json", asked={}),
    ],
    ids=[
        "altered",
        "gone",
        "cut",
        "half a record",
        "no record",
        "no files",
        "no item",
        "no items",
        "no shape",
        "other",
    ],
)
def test_a_damaged_cache_is_said_and_not_used(
    tmp_path: Path,
    request_of: Callable[..., FeatureRequest],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], object],
) -> None:
    request = request_of(Model())
    damage(compute_features(tmp_path, request).folder)
    with caplog.at_level(logging.WARNING):
        assert find_features(tmp_path, request) is None
    assert "is damaged and not used" in caplog.text
    assert compute_features(tmp_path, request).mean.shape == (CLIPS, 3)
    assert find_features(tmp_path, request) is not None


def test_features_of_older_versions_are_used(tmp_path: Path, request_of: Callable[..., FeatureRequest]) -> None:
    """Their items do not say of which video and group they are."""
    request = request_of(Model())
    about = compute_features(tmp_path, request).folder / "features.json"
    items = json.loads(about.read_text())["items"]
    _change(about, items=[{k: v for k, v in item.items() if k not in ("video", "group")} for item in items])
    found = find_features(tmp_path, request)
    assert found is not None
    assert len(found.items) == CLIPS


def test_what_a_killed_process_began_is_begun_again(tmp_path: Path, request_of: Callable[..., FeatureRequest]) -> None:
    request = request_of(Model())
    begun = tmp_path / request.name / "mean.partial"
    begun.mkdir(parents=True)
    (begun / "mean.f32").write_bytes(b"half")
    assert find_features(tmp_path, request) is None
    assert compute_features(tmp_path, request).mean.shape == (CLIPS, 3)
    assert not begun.exists()


def test_an_error_leaves_nothing_behind(tmp_path: Path, request_of: Callable[..., FeatureRequest]) -> None:
    def broken(pixels: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    request = replace(request_of(Model()), encode=broken)
    with pytest.raises(RuntimeError):
        compute_features(tmp_path, request)
    assert list((tmp_path / request.name).iterdir()) == []


def test_two_processes_do_not_compute_the_same(tmp_path: Path, request_of: Callable[..., FeatureRequest]) -> None:
    request = request_of(Model())
    with (tmp_path / f"{request.name}.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(MachineError, match="another process is computing"):
            compute_features(tmp_path, request)


def test_a_feature_that_is_no_number_names_the_clip(tmp_path: Path, request_of: Callable[..., FeatureRequest]) -> None:
    def poisoned(pixels: Tensor) -> Tensor:
        tokens = Model()(pixels)
        return torch.where(tokens[:, :1, :1] == 4, torch.inf, tokens)

    with pytest.raises(WeightsError, match="clip-0004 are no finite numbers"):
        compute_features(tmp_path, replace(request_of(Model()), encode=poisoned))


def test_clips_that_cannot_be_read_are_named_and_too_many_are_an_error(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "val", (8,), members=undecodable(2))
    clips = ClipRequest(middle_frames(FRAMES), side=SIDE)
    some = EvaluationSet(shards, clips, batch_size=3, max_left_out=0.2)
    found = compute_features(tmp_path, FeatureRequest(some, Model(), {}, 1))
    assert [one.key for one in found.left_out] == ["clip-0002"]
    assert found.mean[:, 0].tolist() == [0, 1, 3, 4, 5, 6, 7]
    with pytest.raises(DataError, match="1 of 8 clips cannot be scored"):
        compute_features(tmp_path, FeatureRequest(EvaluationSet(shards, clips, batch_size=3), Model(), {}, None))


# ---------------------------------------------------------------- pooling


def test_pooling_averages_the_patches_of_one_frame() -> None:
    tokens = torch.randn(3, 2 * 16, 5)  # two frames of 4 x 4 patches
    found = pool_patches(tokens, frames=2, size=2)
    by_hand = tokens[1, 16 + torch.tensor([2, 3, 6, 7])].mean(dim=0)  # above on the right, of the second frame
    assert found.shape == (3, 2 * 4, 5)
    torch.testing.assert_close(found[1, 4 + 1], by_hand)
    assert pool_patches(tokens, frames=2, size=1) is tokens


def test_a_pool_that_does_not_fit_names_those_that_do() -> None:
    with pytest.raises(ConfigError, match="6 x 6 patches, which are not made of 4 x 4") as caught:
        pool_patches(torch.zeros(1, 36, 2), frames=1, size=4)
    assert caught.value.hint == "--pool takes one of 2, 3, 6"


def test_sizes_are_known_from_one_pass_of_a_black_clip(request_of: Callable[..., FeatureRequest]) -> None:
    assert request_of(Model(), pool=2).shape() == (FRAMES, 3)
    assert request_of(Model()).shape() == (0, 3)
