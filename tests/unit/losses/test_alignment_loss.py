"""The alignment loss against its formula, written out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from umt_ds.losses.alignment import AlignmentLoss, alignment_loss


def unit_vectors(angles: list[float]) -> torch.Tensor:
    """Unit vectors in the plane at these angles: [1,1,V,2]."""
    return torch.tensor([[[[math.cos(a), math.sin(a)] for a in angles]]])


def test_l2_is_the_mean_of_two_minus_twice_the_cosine() -> None:
    student, target = unit_vectors([0.0, 0.0, 0.0]), unit_vectors([0.0, math.pi / 2, math.pi])
    assert alignment_loss(student, target, kind="l2").item() == pytest.approx((0 + 2 + 4) / 3)


def test_l2_of_unit_vectors_is_the_squared_distance() -> None:
    student = torch.nn.functional.normalize(torch.randn(3, 2, 5, 7), dim=-1)
    target = torch.nn.functional.normalize(torch.randn(3, 2, 5, 7), dim=-1)
    distance = (student - target).square().sum(-1).mean()
    torch.testing.assert_close(alignment_loss(student, target), distance)


@pytest.mark.parametrize(("kind", "expected"), [("mse", (0.25 + 9) / 2), ("smooth_l1", (0.125 + 2.5) / 2)])
def test_element_means(kind: AlignmentLoss, expected: float) -> None:
    student, target = torch.tensor([[[[0.5, 3.0]]]]), torch.zeros(1, 1, 1, 2)
    assert alignment_loss(student, target, kind=kind).item() == pytest.approx(expected)


def test_half_precision_inputs_are_summed_in_fp32() -> None:
    ones = torch.full((1, 1, 4, 4096), 1 / 64, dtype=torch.bfloat16)  # unit vectors, exact in bf16
    loss = alignment_loss(ones, ones)
    assert loss.dtype == torch.float32
    assert loss.item() == 0.0


def test_no_gradient_reaches_the_target() -> None:
    student, target = torch.randn(1, 1, 2, 3, requires_grad=True), torch.randn(1, 1, 2, 3, requires_grad=True)
    alignment_loss(student, target).backward()
    assert student.grad is not None
    assert target.grad is None


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        alignment_loss(torch.randn(6, 2, 5, 7), torch.randn(1, 2, 5, 7))
