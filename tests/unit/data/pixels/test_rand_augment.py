"""RandAugment of clips: timm's operations, one draw for all frames (METHOD.md, "Crops: recognition")."""

from __future__ import annotations

import math
from collections import Counter
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from umt_ds.bench.rate import ALONE, plan_of
from umt_ds.config.load import load_run
from umt_ds.data.pixels.augment import Crop, Placement, View, render
from umt_ds.data.pixels.rand_augment import (
    OPERATIONS,
    Change,
    Operation,
    RandAugment,
    argument_of,
    change_frames,
    parse_rand_augment,
)
from umt_ds.errors import ConfigError
from umt_ds.keyed import Stream
from umt_ds.tasks.loader import plan_loader


def picture(seed: int, height: int = 40, width: int = 56) -> NDArray[np.uint8]:
    """Smooth noise with dull colours, so that contrast and equalisation change it."""
    small = np.random.default_rng(seed).integers(40, 200, (7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def of_timm(frame: NDArray[np.uint8], change: Change) -> NDArray[np.uint8]:
    from timm.data.auto_augment import NAME_TO_OP

    takes_none = change.operation in ("AutoContrast", "Equalize", "Invert")
    options: dict[str, Any] = {"fillcolor": (128, 128, 128), "resample": Image.Resampling.BICUBIC}
    operation = NAME_TO_OP[change.operation]
    return np.asarray(operation(Image.fromarray(frame), *(() if takes_none else (change.argument,)), **options))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("magnitude", "sign"), [(0.0, 1), (7.3, 1), (7.3, -1), (9.9, -1)])
def test_each_operation_is_timms_on_each_frame(operation: Operation, magnitude: float, sign: int) -> None:
    frames = np.stack([picture(seed) for seed in range(3)])
    change = Change(operation, argument_of(operation, magnitude, sign=sign))
    if operation in ("PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd"):
        assert isinstance(change.argument, int)
    changed = change_frames(frames, [change], (0, 0, 56, 40))
    assert np.array_equal(changed, np.stack([of_timm(frame, change) for frame in frames]))


def test_posterize_to_no_bits_is_black() -> None:
    """As with the Pillow of the published code; Pillow 13 refuses it."""
    change = Change("PosterizeIncreasing", argument_of("PosterizeIncreasing", 10.0))
    assert not change_frames(picture(0)[None], [change], (0, 0, 56, 40)).any()


def test_arguments_are_timms_for_any_magnitude(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm.data.auto_augment as timm

    for sign in (1, -1):
        monkeypatch.setattr(timm, "_randomly_negate", lambda value, sign=sign: sign * value)
        for operation in OPERATIONS:
            level_to_arg = timm.LEVEL_TO_ARG[operation]
            for magnitude in np.linspace(0, 10, 101).tolist() if level_to_arg else ():
                (expected,) = level_to_arg(magnitude, {})
                assert argument_of(operation, magnitude, sign=sign) == pytest.approx(expected, rel=0, abs=1e-12)


def test_settings_in_timms_notation() -> None:
    assert parse_rand_augment("rand-m7-n4-mstd0.5-inc1") == RandAugment(7.0, 4, 0.5)
    assert parse_rand_augment("rand-m9.5-n2-inc1") == RandAugment(9.5, 2, 0.0)


@pytest.mark.parametrize("spec", ["rand-m10-n2-inc1", "rand-m7-n4-mstd0.5-inc1", "rand-m0.5-n10-mstd12-inc1"])
def test_a_run_takes_timms_notation(spec: str) -> None:
    run = load_run("demo/recognition", [f"data.augment.rand_augment={spec}"])
    assert plan_loader(run, plan_of(4), ALONE).rand_augment == parse_rand_augment(spec)


@pytest.mark.parametrize(
    "spec", ["rand-m7-n4", "rand-m11-n2-inc1", "rand-m7-n0-inc1", "rand-m7-n4-mstd101-inc1", "augmix"]
)
def test_what_is_no_such_notation_is_refused_by_its_key(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.augment\.rand_augment.*rand-mM-nN-mstdS-inc1"):
        load_run("demo/recognition", [f"data.augment.rand_augment={spec}"])


def test_draws_are_four_of_fifteen_each_applied_half_of_the_time() -> None:
    drawn = [parse_rand_augment("rand-m7-n4-mstd0.5-inc1").draw(Stream(0, "view", n)) for n in range(6000)]
    counts = Counter(change.operation for changes in drawn for change in changes)
    # 24,000 draws of p = 1/30: 800, deviation 28
    assert set(counts) == set(OPERATIONS)
    assert all(abs(count - 800) < 4.5 * 28 for count in counts.values())
    # number of those applied: binomial of 4 and 1/2
    lengths = Counter(map(len, drawn))
    for length in range(5):
        expected = 6000 * math.comb(4, length) / 16
        assert abs(lengths[length] - expected) < 4.5 * math.sqrt(expected)
    turned = [change.argument for changes in drawn for change in changes if change.operation == "Rotate"]
    assert abs(fmean(argument > 0 for argument in turned) - 0.5) < 0.08
    magnitudes = [abs(argument) / 3 for argument in turned]
    assert fmean(magnitudes) == pytest.approx(7, abs=0.08)
    assert pstdev(magnitudes) == pytest.approx(0.5, abs=0.06)


def test_magnitudes_stay_within_0_and_10_and_without_deviation_are_one() -> None:
    def turns(spec: str) -> set[float]:
        views = [parse_rand_augment(spec).draw(Stream(1, "view", n)) for n in range(300)]
        return {abs(c.argument) for changes in views for c in changes if c.operation == "Rotate"}

    assert turns("rand-m7-n4-inc1") == {21.0}
    wild = turns("rand-m5-n4-mstd9-inc1")
    assert (min(wild), max(wild)) == (0.0, 30.0)


def test_any_part_after_any_changes_is_that_of_the_whole_frame_to_the_byte() -> None:
    """Only what a part needs is computed; of 60 views with four changes each, all ends of chains occur."""
    frames = np.stack([picture(seed, 64, 90) for seed in (6, 7)])
    augment = RandAugment(7.0, 8, 0.5)
    last = set()
    for key in range(60):
        stream = Stream(2, "part", key)
        changes = augment.draw(stream)
        left, top = stream.integer(60), stream.integer(40)
        right, bottom = left + 1 + stream.integer(90 - left), top + 1 + stream.integer(64 - top)
        whole = frames
        for change in changes:
            whole = np.stack([of_timm(frame, change) for frame in whole])
        part = change_frames(frames, changes, (left, top, right, bottom))
        assert np.array_equal(part, whole[:, top:bottom, left:right]), changes
        last.update(change.operation for change in changes[-1:])
    assert last == set(OPERATIONS)


def test_a_view_is_cut_from_the_changed_frame() -> None:
    """The rotation brings into the crop what lay outside of it."""
    frames = np.stack([picture(4), picture(5)])
    changes = [Change("Rotate", 20.0), Change("SharpnessIncreasing", 1.7), Change("SolarizeAdd", 70)]
    whole = frames
    for change in changes:
        whole = np.stack([of_timm(frame, change) for frame in whole])
    crop = Crop(9, 5, 24, 24)
    out = np.empty((2, 24, 24, 3), np.uint8)
    render(frames, View(Placement(crop, (24, 24)), changes=changes), out)
    assert np.array_equal(out, whole[:, 5:29, 9:33])
