"""Crop, resize, colour and flip, against numbers worked by hand, PIL and torchvision (METHOD.md, "Crops: stage 1")."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from tests.support.loading import training_view
from umt_ds.data.pixels.augment import (
    ColorJitter,
    Crop,
    CropKind,
    Placement,
    View,
    _recoloured,
    centre_view,
    crop_corners,
    crop_sizes,
    draw_area,
    draw_crop,
    draw_view,
    render,
    stretch_view,
)
from umt_ds.errors import ConfigError
from umt_ds.keyed import Stream


def of_pillow(
    frame: NDArray[np.uint8], crop: Crop, size: tuple[int, int], filter: Image.Resampling = Image.Resampling.BILINEAR
) -> NDArray[np.uint8]:
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    return np.asarray(Image.fromarray(frame).crop(box).resize(size, filter))


def weights(length: int, size: int) -> NDArray[np.float64]:
    """The triangle filter, as wide as a step where it shrinks: [size,length]."""
    step = length / size
    centres = (np.arange(size)[:, None] + 0.5) * step
    triangles = np.maximum(0, 1 - np.abs(np.arange(length) + 0.5 - centres) / max(step, 1))
    return np.asarray(triangles / triangles.sum(1, keepdims=True))


def apart(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.int64]:
    """By how many grey levels each value differs."""
    return np.abs(one.astype(np.int64) - other)


@pytest.fixture(scope="module")
def clip() -> NDArray[np.uint8]:
    """Three frames of smooth noise, 60 x 90."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (3, 12, 18, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(f).resize((90, 60), Image.Resampling.BICUBIC)) for f in small])


def test_crop_sizes_of_a_340x256_video() -> None:
    # base 256: int(256·{1, .875, .75, .66}) = 256, 224, 192, 168; pairs at most one scale apart
    expected = {
        *[(256, 256), (224, 256), (256, 224), (224, 224), (192, 224)],
        *[(224, 192), (192, 192), (168, 192), (192, 168), (168, 168)],
    }
    sizes = crop_sizes(340, 256, 224)
    assert len(sizes) == 10
    assert set(sizes) == expected


def test_crop_sizes_within_three_pixels_of_the_side_snap_to_it() -> None:
    # base 255: 255, 223, 191, 168 → 223 is 1 from 224; base 258: 258, 225, 193, 170 → 225 is 1 from 224
    assert {w for w, _ in crop_sizes(300, 255, 224)} == {255, 224, 191, 168}
    assert {w for w, _ in crop_sizes(300, 258, 224)} == {258, 224, 193, 170}
    # base 259: int(226.6) = 226 is 2 away and snaps; base 260: 227 is 3 away and does not
    assert {w for w, _ in crop_sizes(300, 259, 224)} == {259, 224, 194, 170}
    assert {w for w, _ in crop_sizes(300, 260, 224)} == {260, 227, 195, 171}


def test_a_crop_never_leaves_a_picture_slightly_smaller_than_the_side() -> None:
    assert max(max(size) for size in crop_sizes(223, 300, 224)) == 223


def test_the_thirteen_places_of_a_crop() -> None:
    # 340x256, crop 224x192: room 116 and 64, steps 29 and 16
    corners = {(0, 0), (116, 0), (0, 64), (116, 64), (58, 32)}
    edges = {(0, 32), (116, 32), (58, 64), (58, 0)}
    quarters = {(29, 16), (87, 16), (29, 48), (87, 48)}
    assert set(crop_corners(340 - 224, 256 - 192)) == corners | edges | quarters
    assert len(crop_corners(116, 64)) == 13
    # a room of 7 has steps of 1: the far edge is 4, as published, not 7
    assert max(x for x, _ in crop_corners(7, 7)) == 4


def test_all_sizes_and_places_are_drawn_equally_often() -> None:
    crops = Counter(draw_crop(340, 256, side=224, stream=Stream(0, i)) for i in range(13_000))
    sizes = Counter((crop.width, crop.height) for crop in crops.elements())
    assert len(sizes) == 10
    assert all(1150 < count < 1450 for count in sizes.values())
    places = {(c.left, c.top) for c in crops if (c.width, c.height) == (168, 168)}
    assert len(places) == 13


def test_a_view_is_what_pillow_crops_and_then_resizes(clip: NDArray[np.uint8]) -> None:
    for i in range(20):
        crop = draw_crop(90, 60, side=32, stream=Stream(0, i))
        view = training_view(clip, side=32, stream=Stream(0, i))
        for frame, shown in zip(clip, view, strict=True):
            assert apart(of_pillow(frame, crop, (32, 32)), shown).max() <= 1


@pytest.mark.parametrize("short_side", [224, 240, 256, 320])
@pytest.mark.parametrize("coarse", [24, 320])
def test_the_resize_is_within_a_grey_level_of_the_exact_sums_at_every_size_that_is_drawn(
    short_side: int, coarse: int
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (coarse, coarse, 3), dtype=np.uint8)
    frame = np.array(Image.fromarray(noise).resize((short_side, short_side), Image.Resampling.BICUBIC))
    out = np.empty((1, 224, 224, 3), np.uint8)
    for width, height in set(crop_sizes(short_side, short_side, 224)):
        crop = Crop(0, 0, width, height)
        exact = np.einsum(
            "yh,hwc,xw->yxc", weights(height, 224), frame[:height, :width], weights(width, 224), optimize=True
        )
        pillow = of_pillow(frame, crop, (224, 224))
        for mirrored in (False, True):
            render(frame[None], View(Placement(crop, (224, 224)), mirrored=mirrored), out)
            shown = out[0, :, ::-1] if mirrored else out[0]
            assert np.abs(shown - exact).max() < 1.01  # half a level by each of the two passes: Pillow's are so too
            # so the two can be two apart: at 6 : 7, where sums often end near a half, by one value in thousands
            assert apart(pillow, shown).max() <= 2
            assert (apart(pillow, shown) > 1).mean() < 5e-4


def test_a_random_part_has_an_area_and_a_shape_in_range_and_lies_anywhere() -> None:
    crops = [draw_area(340, 256, scale=(0.5, 1.0), stream=Stream(0, i)) for i in range(2000)]
    for crop in crops:
        assert 0 <= crop.left <= 340 - crop.width
        assert 0 <= crop.top <= 256 - crop.height
        assert 0.49 < crop.width * crop.height / (340 * 256) <= 1.0
        assert 3 / 4 - 0.01 < crop.width / crop.height < 4 / 3 + 0.01
    assert {crop.left for crop in crops} > set(range(0, 60, 4))
    logs = np.log([crop.width / crop.height for crop in crops])
    assert logs.min() < -0.2
    assert logs.max() > 0.27


def test_a_picture_too_long_for_any_part_shows_its_largest_centre() -> None:
    # as torchvision: 1000 x 100 at no less than half of the area has no part of 3:4 to 4:3
    assert draw_area(1000, 100, scale=(0.5, 1.0), stream=Stream(0)) == Crop(433, 0, 133, 100)
    assert draw_area(100, 1000, scale=(0.5, 1.0), stream=Stream(0)) == Crop(0, 433, 100, 133)


def test_parts_are_resized_as_pillow_does_it_bicubic(clip: NDArray[np.uint8]) -> None:
    for i in range(20):
        view = draw_view(90, 60, side=32, stream=Stream(0, i), crop="random_resized")
        out = np.empty((3, 32, 32, 3), np.uint8)
        render(clip, view, out)
        expected = of_pillow(clip[1], view.placement.crop, (32, 32), Image.Resampling.BICUBIC)
        assert apart(expected, out[1]).max() <= 1


def test_the_stretched_view_shows_all_of_a_frame_out_of_shape(clip: NDArray[np.uint8]) -> None:
    whole = of_pillow(clip[0], Crop(0, 0, 90, 60), (32, 32), Image.Resampling.BICUBIC)
    assert apart(whole, stretch_view(clip, side=32)[0]).max() <= 1


def of_torchvision(clip: NDArray[np.uint8], placement: Placement) -> NDArray[np.uint8]:
    """Crop and resize of tensors without antialias, which is all that torchvision 0.13 has."""
    tensor = torch.from_numpy(clip).permute(0, 3, 1, 2)
    how = InterpolationMode(placement.filter)
    top, left = placement.crop.top, placement.crop.left
    height, width = placement.crop.height, placement.crop.width
    shown = tv.resized_crop(tensor, top, left, height, width, list(placement.size[::-1]), how, antialias=False)
    return shown.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("crop", ["multi_scale", "random_resized", "center"])
def test_without_antialias_a_view_is_that_of_published_tensors_to_the_byte(crop: CropKind) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (3, 60, 90, 3), dtype=np.uint8)
    for i in range(20):
        view = draw_view(90, 60, side=32, stream=Stream(0, i), crop=crop, antialias=False, flip=True)
        out = np.empty((3, 32, 32, 3), np.uint8)
        render(clip, view, out)
        whole = of_torchvision(clip, view.placement)
        whole = whole[:, :, ::-1] if view.mirrored else whole
        placement = view.placement
        assert np.array_equal(out, whole[:, placement.top : placement.top + 32, placement.left : placement.left + 32])
        smooth = np.empty_like(out)
        render(clip, replace(view, placement=replace(placement, antialias=True)), smooth)
        assert apart(out, smooth).mean() > 5


def test_chance_decides_the_same_with_and_without_antialias() -> None:
    for i in range(20):
        with_, without = (
            draw_view(90, 60, side=32, stream=Stream(0, i), flip=True, antialias=a) for a in (True, False)
        )
        assert replace(without, placement=replace(without.placement, antialias=True)) == with_


def test_views_for_evaluation_do_without_antialias_too() -> None:
    clip = np.random.default_rng(1).integers(0, 256, (2, 60, 90, 3), dtype=np.uint8)
    whole = Crop(0, 0, 90, 60)
    stretched = of_torchvision(clip, Placement(whole, (32, 32), filter="bicubic"))
    assert np.array_equal(stretch_view(clip, side=32, antialias=False), stretched)
    centre = of_torchvision(clip, Placement(whole, (48, 32)))[:, :, 8:40]
    assert np.array_equal(centre_view(clip, side=32, antialias=False), centre)


def test_every_frame_gets_the_same_crop_colour_and_flip(clip: NDArray[np.uint8]) -> None:
    same = np.stack([clip[0]] * 4)
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.1)
    view = training_view(same, side=24, stream=Stream(3), flip=True, jitter=jitter)
    assert all(np.array_equal(view[0], frame) for frame in view)


def test_flip_mirrors_half_of_the_views_and_changes_nothing_else(clip: NDArray[np.uint8]) -> None:
    mirrored = 0
    for i in range(200):
        plain = training_view(clip, side=16, stream=Stream(0, i))
        view = training_view(clip, side=16, stream=Stream(0, i), flip=True)
        if not np.array_equal(view, plain):
            assert np.array_equal(view, plain[:, :, ::-1])
            mirrored += 1
    assert 70 < mirrored < 130


def test_a_crop_that_keeps_its_size_is_only_copied(clip: NDArray[np.uint8]) -> None:
    out = np.empty((3, 32, 32, 3), np.uint8)
    render(clip, View(Placement(Crop(7, 5, 32, 32), (32, 32)), mirrored=True), out)
    assert np.array_equal(out, clip[:, 5:37, 7:39][:, :, ::-1])


@pytest.mark.parametrize("antialias", [True, False])
def test_colours_are_those_of_pillow_on_the_resized_picture(clip: NDArray[np.uint8], antialias: bool) -> None:
    placement = Placement(Crop(3, 2, 48, 48), (32, 32), antialias=antialias)
    plain, coloured = np.empty((2, 3, 32, 32, 3), np.uint8)
    render(clip, View(placement), plain)
    render(clip, View(placement, [("contrast", 1.3), ("hue", 0.2)], mirrored=True), coloured)
    expected = tv.adjust_hue(tv.adjust_contrast(Image.fromarray(plain[1]), 1.3), 0.2)
    assert np.array_equal(coloured[1], np.asarray(expected)[:, ::-1])


def test_centre_view_resizes_the_short_side_and_cuts_the_centre(clip: NDArray[np.uint8]) -> None:
    # 90x60 → 48x32, then columns 8 … 40
    view = centre_view(clip, side=32)
    assert apart(of_pillow(clip[1], Crop(0, 0, 90, 60), (48, 32))[:, 8:40], view[1]).max() <= 1
    assert np.array_equal(training_view(clip, side=32, stream=Stream(0), crop="center"), view)


@pytest.mark.parametrize("factor", [-0.3, -0.01, 0.0, 0.2, 0.5])
def test_hue_agrees_with_torchvision(clip: NDArray[np.uint8], factor: float) -> None:
    picture = Image.fromarray(clip[0])
    assert np.array_equal(np.asarray(_recoloured(picture, ("hue", factor))), np.asarray(tv.adjust_hue(picture, factor)))


@pytest.mark.parametrize("factor", [0.3, 1.0, 1.4])
def test_brightness_contrast_and_saturation_agree_with_torchvision(clip: NDArray[np.uint8], factor: float) -> None:
    picture = Image.fromarray(clip[0])
    assert np.array_equal(
        np.asarray(_recoloured(picture, ("brightness", factor))),
        np.asarray(tv.adjust_brightness(picture, factor)),
    )
    assert np.array_equal(
        np.asarray(_recoloured(picture, ("contrast", factor))),
        np.asarray(tv.adjust_contrast(picture, factor)),
    )
    assert np.array_equal(
        np.asarray(_recoloured(picture, ("saturation", factor))),
        np.asarray(tv.adjust_saturation(picture, factor)),
    )


def test_jitter_draws_factors_in_range_and_in_every_order() -> None:
    jitter = ColorJitter(0.4, 0.3, 2.0, 0.1)
    drawn = [jitter.draw(Stream(0, i)) for i in range(600)]
    assert len({tuple(kind for kind, _ in ops) for ops in drawn}) == 24
    by_kind = {kind: [dict(ops)[kind] for ops in drawn] for kind, _ in drawn[0]}
    assert 0.6 <= min(by_kind["brightness"]) < 0.65
    assert 1.35 < max(by_kind["brightness"]) <= 1.4
    assert min(by_kind["saturation"]) >= 0  # not 1 - 2 = -1
    assert -0.1 <= min(by_kind["hue"]) < -0.09


def test_jitter_is_off_by_default_and_refuses_nonsense() -> None:
    assert ColorJitter().draw(Stream(0)) == []
    with pytest.raises(ConfigError, match="hue"):
        ColorJitter(hue=0.7)


def test_a_crop_is_a_value() -> None:
    assert draw_crop(340, 256, side=224, stream=Stream(8)) == draw_crop(340, 256, side=224, stream=Stream(8))
    assert isinstance(draw_crop(2, 2, side=224, stream=Stream(8)), Crop)
