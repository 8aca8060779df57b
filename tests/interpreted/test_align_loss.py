"""The Triton kernel of align_loss is its reference."""

from __future__ import annotations

import math

import pytest
import torch

from tests.support.kernels import DTYPES, check_align_loss
from umt_ds.kernels.align_loss import reference, triton


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (2, 20, 33), (5, 197), (33, 64), (2, 1023)])
def test_loss_and_gradients(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check_align_loss("cpu", shape=shape, dtype=dtype, weights=dtype)


def test_many_rows_shared_among_programs_and_weights_of_another_dtype() -> None:
    check_align_loss("cpu", shape=(3, 33, 8), dtype=torch.bfloat16, weights=torch.float32)


def test_the_eps_of_the_norm_shows_in_rows_of_low_variance() -> None:
    check_align_loss("cpu", shape=(3, 40), dtype=torch.float32, weights=torch.float32, spread=1e-3)


def test_a_small_gradient_does_not_vanish_in_fp16() -> None:
    """Of the mean over the rows, before the loss is scaled, it would lie below fp16's normal numbers."""
    generator = torch.Generator().manual_seed(0)
    hidden = (8000 * torch.randn(64, 8, generator=generator)).half().requires_grad_()
    target = torch.randn(64, 8, generator=generator).half()
    ours, expected = (
        torch.autograd.grad(65536 * module.align_loss(hidden, torch.ones(8), torch.zeros(8), target, eps=1e-6), hidden)
        for module in (triton, reference)
    )
    largest = expected[0].abs().max().item()
    torch.testing.assert_close(ours[0], expected[0], rtol=0, atol=3e-3 * largest)


def test_two_backward_passes_give_the_same_and_do_not_add_up_inside() -> None:
    hidden = torch.randn(4, 8, requires_grad=True)
    loss = triton.align_loss(hidden, torch.ones(8), torch.zeros(8), torch.randn(4, 8), eps=1e-6)
    first, second = (torch.autograd.grad(5 * loss, hidden, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, which the interpreter computes with
@pytest.mark.parametrize("zero", ["hidden", "target"])
def test_a_row_of_zeros_is_nan_as_in_the_reference(zero: str) -> None:
    """The guard must see it."""
    rows = {"hidden": torch.randn(3, 8), "target": torch.randn(3, 8)}
    rows[zero][1] = 0
    weight, bias = torch.ones(8), torch.zeros(8)
    for module in (triton, reference):
        assert math.isnan(module.align_loss(rows["hidden"], weight, bias, rows["target"], eps=1e-6).item())
