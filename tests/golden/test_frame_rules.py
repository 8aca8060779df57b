"""Frames and crops of recognition in testing are those of the published code: indices and boxes exactly, pixels within
one grey level of OpenCV's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from umt_ds.data.order.views import Views
from umt_ds.data.pixels.augment import Crop
from umt_ds.data.pixels.testing import (
    crop_of_validation,
    crops_of_testing,
    size_in_testing,
    testing_views,
    validation_view,
)


@pytest.mark.parametrize(("name", "rule"), [("kinetics_sparse", "recognition"), ("ssv2", "ssv2")])
def test_frames_of_validation_and_testing(golden: Callable[[str], Any], name: str, rule: Any) -> None:
    published = golden("recognition.pt")["sampling"][name]
    for frames, rows in published["validation"].items():
        views = Views(rule, int(frames))
        assert [views.validation(length) for length in published["lengths"]] == rows.tolist()
    for shape, rows in published["test"].items():
        frames, _, clips = shape.partition("x")
        views = Views(rule, int(frames), int(clips or 2))
        shown = [[views.test_clip(c, length) for c in range(views.num_clips)] for length in published["lengths"]]
        assert shown == rows.tolist()


def test_size_and_crops(golden: Callable[[str], Any]) -> None:
    for case in golden("recognition.pt")["sampling"]["crops"]:
        side = case["short_side"]
        width, height = size_in_testing(case["width"], case["height"], side=side)
        assert [width, height] == case["resized"]
        for num_crops, name in ((1, "one"), (3, "three"), (5, "five")):
            boxes = crops_of_testing(width, height, side=side, num_crops=num_crops)
            assert boxes == [Crop(*box) for box in case[name]]
        assert [crop_of_validation(width, height, side=side)] == [Crop(*box) for box in case["validation"]]


def test_resize(golden: Callable[[str], Any]) -> None:
    published = golden("recognition.pt")["sampling"]["resize"]
    frame = published["frame"].numpy()
    for case in published["cases"]:
        side, opencv = case["short_side"], case["result"].numpy()  # u8 [h,w,3]
        height, width, _ = opencv.shape
        views = testing_views(frame[None], side=side, num_crops=3)[:, 0]  # u8 [3,side,side,3]
        for view, box in zip(views, crops_of_testing(width, height, side=side, num_crops=3), strict=True):
            assert within_one_level(view, opencv[box.top :, box.left :][:side, :side])
        middle = crop_of_validation(width, height, side=side)
        shown = validation_view(frame[None], side=side)[0]
        assert within_one_level(shown, opencv[middle.top :, middle.left :][:side, :side])


def within_one_level(ours: Any, theirs: Any) -> bool:
    return bool(ours.shape == theirs.shape and np.abs(ours.astype(int) - theirs).max() <= 1)
