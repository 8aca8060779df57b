"""What a plan takes a core of the loader to do where there are no shards to measure."""

from __future__ import annotations

import pytest

from umt_ds.config.load import load_run
from umt_ds.preflight.assumed_loader import assumed_pace


def pace(*overrides: str) -> float:
    return assumed_pace(load_run("recognition/b16_k710", ["task.mixing=null", *overrides], keep_unset=True))


def test_fine_tuning_pays_for_its_second_view_and_for_rand_augment() -> None:
    # `umt bench loader --fine-tuning`: 27 clips of 8 frames a core-second, and 126 without RandAugment
    assert pace() / 8 == pytest.approx(27, rel=0.2)
    assert 3 * pace() > pace("data.num_sample=1") > 1.5 * pace()
    assert pace("data.augment.rand_augment=null") > 2 * pace()


def test_what_the_device_does_costs_no_core() -> None:
    left = ["data.augment.rand_augment=null", "data.augment.on_device=resize"]
    assert pace(*left) == pace(*left, "data.num_sample=1") == pytest.approx(1200)
