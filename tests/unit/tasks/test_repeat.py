"""A sample can stand for several draws of an epoch: an image with five captions counts as five pairs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.loading import PLAN, spec
from tests.support.shards import write_shards
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.data.loader import Loader
from umt_ds.tasks.sources import count_samples, media_shares, sample_counts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    there = tmp_path_factory.mktemp("repeat")
    for name, sizes in (("few", (2, 2)), ("many", (8, 8))):
        write_shards(there / name, sizes)
    return there


def run_of(folder: Path, few: str, many: str = "") -> RunConfig:
    sources = f"{{demo: {{shards: {folder / 'few'}{few}}}, many: {{shards: {folder / 'many'}{many}}}}}"
    return load_run("demo/stage1", [f"data.sources={sources}", "task.teacher.weights=random", "task.student.frames=1"])


def test_an_epoch_counts_each_sample_as_often_as_it_is_repeated(folder: Path) -> None:
    config = run_of(folder, ", repeat: 2.5")
    assert sample_counts(config) == {"demo": 4, "many": 16}
    assert count_samples(config) == 26
    assert count_samples(run_of(folder, "")) == 20


def test_the_mixture_draws_as_an_epoch_counts(folder: Path) -> None:
    few, many = spec(folder / "few", name="few"), spec(folder / "many", name="many")
    for repeat, share in ((1.0, 4 / 20), (12.0, 48 / 64)):
        loader = Loader([replace(few, repeat=repeat), many], PLAN)
        drawn = Counter(loader.builder.draws.schedule(draw)[0] for draw in range(4096))
        loader.close()
        assert drawn[0] / 4096 == pytest.approx(share, abs=1e-3)


def test_the_share_of_images_follows(folder: Path) -> None:
    config = run_of(folder, ", media: image, repeat: 4")
    assert media_shares(config) == {"image": 0.5, "video": 0.5}


def test_a_weight_is_the_share_whatever_is_repeated(folder: Path) -> None:
    config = run_of(folder, ", media: image, repeat: 4, weight: 1", ", weight: 3")
    assert media_shares(config) == {"image": 0.25, "video": 0.75}
    assert count_samples(config) == 32


def test_recipes_count_the_captions_of_coco_and_visual_genome(monkeypatch: pytest.MonkeyPatch) -> None:
    """113 K images with 567 K captions, 100 K with 768 K (UMT table 27)."""
    for variable in ("UMT_DATA", "UMT_CLIP_B16", "UMT_BERT_BASE", "UMT_STAGE1_B16"):
        monkeypatch.setenv(variable, "/x")
    for name in ("stage2/b16_17m", "stage2/b16_25m"):
        sources = load_run(name).data.sources
        assert sources["coco"].repeat * 113 == pytest.approx(567, rel=2e-3)
        assert sources["vg"].repeat * 100 == pytest.approx(768, rel=2e-3)
        assert {source.repeat for key, source in sources.items() if key not in ("coco", "vg")} == {1.0}
