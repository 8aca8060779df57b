"""Position tables: published values, the two rules, resizing without antialias, kept in float32."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from umt_ds.models.positions import (
    finetune_table,
    interpolated_table,
    position_table,
    resize_grid,
    sincos_table,
)

CPU = torch.device("cpu")


def test_the_table_of_a_base_clip_has_the_published_values() -> None:
    """METHOD.md, "Positions": d = 768, N = 1568."""
    table = sincos_table(1568, 768)
    assert table.shape == (1568, 768)
    assert table.dtype == torch.float32
    assert table.double().sum().item() == pytest.approx(245744.989567, abs=1e-3)
    assert table[1, :4].tolist() == pytest.approx([0.84147096, 0.54030228, 0.82843077, 0.56009150], abs=1e-7)
    assert table[1567, :4].tolist() == pytest.approx([0.60894841, -0.79320985, 0.09323163, -0.99564445], abs=1e-7)
    assert table[100, -2:].tolist() == pytest.approx([0.01024257, 0.99994755], abs=1e-7)


def test_each_entry_is_the_sinusoid_of_its_position_and_channel() -> None:
    table = sincos_table(5, 6)
    for position in range(5):
        for channel in range(6):
            angle = position / 10000 ** (2 * (channel // 2) / 6)
            expected = math.sin(angle) if channel % 2 == 0 else math.cos(angle)
            assert table[position, channel].item() == pytest.approx(expected, abs=1e-7)


def test_an_image_has_the_positions_of_the_first_frame() -> None:
    common = {"rows": 2, "cols": 3, "width": 8, "patch": 16, "device": CPU}
    video = position_table("sincos", frames=4, **common)
    assert torch.equal(position_table("sincos", frames=1, **common), video[:6])


def test_the_base_clip_is_not_interpolated() -> None:
    assert torch.equal(finetune_table(8, 224, 16, 12), sincos_table(8 * 14 * 14, 12))


def test_more_frames_stretch_the_table_linearly_over_time() -> None:
    """4 frames from 2, align_corners False: weights 0, 1/4, 3/4, 1 on the second frame."""
    first, second = sincos_table(2 * 9, 8).view(2, 9, 8)
    table = interpolated_table(frames=4, rows=3, cols=3, width=8, base_frames=2, base_grid=3).view(4, 9, 8)
    for frame, weight in enumerate((0.0, 0.25, 0.75, 1.0)):
        torch.testing.assert_close(table[frame], (1 - weight) * first + weight * second)


def test_another_grid_is_bicubic_in_space_first_without_antialias() -> None:
    planes = sincos_table(2 * 36, 8).view(2, 6, 6, 8).permute(0, 3, 1, 2)  # [T,D,6,6]
    table = interpolated_table(frames=2, rows=4, cols=5, width=8, base_frames=2, base_grid=6)

    def resized(antialias: bool) -> torch.Tensor:
        image = F.interpolate(planes, size=(4, 5), mode="bicubic", align_corners=False, antialias=antialias)
        return image.permute(0, 2, 3, 1).reshape(-1, 8)

    torch.testing.assert_close(table, resized(antialias=False))
    assert (table - resized(antialias=True)).abs().max() > 1e-2


def test_resizing_to_the_same_grid_changes_nothing() -> None:
    table = torch.randn(1, 9, 4)
    assert resize_grid(table, rows=3, cols=3) is table


def test_the_kept_table_is_float32_made_once_and_usable_in_training_after_inference() -> None:
    with torch.inference_mode():
        table = position_table("interpolated", frames=3, rows=2, cols=2, width=4, patch=112, device=CPU)
    again = position_table("interpolated", frames=3, rows=2, cols=2, width=4, patch=112, device=CPU)
    assert again is table
    assert table.dtype == torch.float32
    assert not table.is_inference()
    torch.testing.assert_close(table, finetune_table(3, 224, 112, 4))
