"""What a device finishes is what a worker would have made: here the device is the CPU."""

from __future__ import annotations

import io
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.support.loading import PLAN, assert_same, global_batch, spec
from tests.support.shards import record, write_shards
from umt_ds.batch import Batch
from umt_ds.config.batching import plan_run
from umt_ds.config.data import AugmentConfig
from umt_ds.config.load import load_run
from umt_ds.data.loader import Loader
from umt_ds.data.on_device import OnDevice
from umt_ds.data.pixels.augment import Filter
from umt_ds.distributed.world import World
from umt_ds.errors import ConfigError, DataError, DecodeError
from umt_ds.tasks.loader import build_loader

CPU = torch.device("cpu")


def jpeg_frames(number: int, *, num_frames: int = 7) -> dict[str, bytes]:
    """Frames of smooth noise; every third clip is upright, every fifth has PNG frames."""
    rng = np.random.default_rng(number)
    size = (40, 56) if number % 3 else (56, 40)
    frames = {}
    for i in range(num_frames):
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG" if number % 5 else "PNG", quality=90)
        frames[f"{i:03d}.jpg"] = file.getvalue()
    return {**record(number), **frames}


pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")


def refuses(*_: object, **__: object) -> None:
    raise RuntimeError("nvjpeg: progressive")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("jpegs"), [8, 8], members=jpeg_frames)


def apart(one: Tensor, other: Tensor) -> int:
    return int((one.int() - other.int()).abs().max())


@pytest.mark.parametrize("crop", ["multi_scale", "random_resized", "center"])
@pytest.mark.parametrize("finished_by", ["resize", "decode"])
@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
def test_a_device_makes_the_same_views_within_one_grey_level(
    folder: Path, finished_by: OnDevice, crop: str, filter: Filter
) -> None:
    plan = replace(PLAN, num_sample=2, image_side=32, crop=crop, filter=filter)
    expected = global_batch(folder, range(2), plan=plan)
    for step, batch in enumerate(global_batch(folder, range(2), plan=replace(plan, on_device=finished_by), workers=1)):
        assert apart(batch.pixels, expected[step].pixels) <= 1
        assert_same(replace(batch, pixels=expected[step].pixels), expected[step])
    assert (expected[0].pixels[::2] != expected[0].pixels[1::2]).any(), "the two views of a clip differ"


@pytest.mark.parametrize("crop", ["multi_scale", "random_resized", "center"])
@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
def test_a_device_leaves_antialias_away_where_the_workers_do(folder: Path, crop: str, filter: Filter) -> None:
    plan = replace(PLAN, image_side=32, crop=crop, filter=filter, scale=(0.08, 1.0), antialias=False)
    (expected,) = global_batch(folder, range(1), plan=plan)
    (finished,) = global_batch(folder, range(1), plan=replace(plan, on_device="resize"))
    assert torch.equal(finished.pixels, expected.pixels)
    (smooth,) = global_batch(folder, range(1), plan=replace(plan, antialias=True))
    assert apart(smooth.pixels, expected.pixels) > 1


def test_the_worker_ships_the_files_once_for_all_views_and_only_crops_of_the_rest(folder: Path) -> None:
    plan = replace(PLAN, num_sample=2, image_side=32, on_device="decode")
    packed = Loader([spec(folder)], plan).builder(0).parts[0].packed
    assert packed is not None
    num_jpegs = sum(piece.is_jpeg for piece in packed.pieces) // 2
    assert 0 < num_jpegs < 12  # the PNG clips among them are decoded by the worker
    assert len(packed.file_sizes) == 3 * num_jpegs
    crops = [np.prod(piece.shape) for piece in packed.pieces if not piece.is_jpeg]
    assert packed.pixels.numel() == sum(crops)
    whole = packed.files[: packed.file_sizes[0]].numpy().tobytes()
    assert Image.open(io.BytesIO(whole)).size in ((40, 56), (56, 40))


def test_the_host_decodes_what_the_device_cannot(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = decoded_by_device(folder)
    monkeypatch.setattr("torchvision.io.decode_jpeg", refuses)
    with caplog.at_level(logging.WARNING):
        assert apart(decoded_by_device(folder).pixels, expected.pixels) <= 1
    assert "nvjpeg: progressive" in caplog.text


def decoded_by_device(folder: Path) -> Batch:
    return next(Loader([spec(folder)], replace(PLAN, on_device="decode"), device=CPU).micro_batches(0))


def test_a_frame_that_nobody_can_decode_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checksum, header and end are right: it was already broken when the shard was written."""

    def broken(pictures: list[bytes]) -> None:
        raise DecodeError("no picture")

    monkeypatch.setattr("torchvision.io.decode_jpeg", refuses)
    monkeypatch.setattr("umt_ds.data.on_device.decode_pictures", broken)
    with pytest.raises(DataError, match=r"draw \d: a frame of clip-00\d\d cannot be decoded: no picture") as caught:
        decoded_by_device(folder)
    assert "data.skip_draws=[[" in str(caught.value)


def test_a_damaged_sample_gets_its_substitute_whoever_decodes(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "damaged")
    with (tmp_path / "damaged" / "tiny-000000.tar").open("r+b") as file:
        file.seek(3000)
        file.write(b"\0" * 8000)
    digests = {
        mode: [b.digest for b in global_batch(tmp_path / "damaged", range(2), plan=replace(PLAN, on_device=mode))]
        for mode in ("nothing", "resize", "decode")
    }
    assert digests["nothing"] == digests["resize"] == digests["decode"]
    assert digests["nothing"] != [b.digest for b in global_batch(folder, range(2))]


def test_colours_on_the_device_and_decoding_without_cuda_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="color_jitter is the workers' work"):
        AugmentConfig(on_device="resize", color_jitter=0.4)
    settings = [f"data.sources.demo.shards={folder}", "task.teacher.weights=random"]
    config = load_run("demo/stage1", [*settings, "data.augment.on_device=decode"])
    alone = World.alone()
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        build_loader(config, plan_run(config, world=1, num_samples=16), alone, device=CPU)
