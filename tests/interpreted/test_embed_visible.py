"""The Triton kernel of embed_visible is its reference."""

from __future__ import annotations

import pytest
import torch

from tests.support.kernels import DTYPES, MEAN, STD, check_embed_visible
from umt_ds.kernels.embed_visible import reference, triton


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("patch", "clip", "visible", "width"),
    [
        (4, (1, 1, 1, 1), 1, 1),
        (16, (3, 2, 3, 4), 11, 40),  # 33 tokens, each clip its own
        (14, (1, 2, 4, 5), None, 33),  # CLIP-L: 588 bytes a patch, no multiple of 16
        (8, (1, 3, 9, 8), 197, 130),  # more tokens and features than a tile has
    ],
)
def test_tokens_and_gradients(
    patch: int, clip: tuple[int, int, int, int], visible: int | None, width: int, dtype: torch.dtype
) -> None:
    check_embed_visible("cpu", patch=patch, clip=clip, visible=visible, width=width, dtype=dtype)


def test_without_positions_and_without_gradients() -> None:
    pixels = torch.randint(0, 256, (1, 1, 8, 8, 3), dtype=torch.uint8)
    weight, bias = torch.randn(3, 48), torch.randn(3)
    ours, expected = (
        module.embed_visible(pixels, None, weight, bias, None, patch=4, mean=MEAN, std=STD)
        for module in (triton, reference)
    )
    assert not ours.requires_grad
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_what_is_kept_for_the_backward_pass_is_pixels_and_not_patches() -> None:
    pixels = torch.randint(0, 256, (2, 2, 32, 32, 3), dtype=torch.uint8)
    keep = torch.tensor([[0, 3, 30], [1, 2, 31]])
    weight, bias = torch.randn(5, 192, requires_grad=True), torch.randn(5, requires_grad=True)
    kept: list[torch.Tensor] = []

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        triton.embed_visible(pixels, keep, weight, bias, None, patch=8, mean=MEAN, std=STD)
    patches = 2 * 3 * 192
    assert all(tensor.numel() != patches for tensor in kept)
    assert any(tensor is pixels or tensor.data_ptr() == pixels.data_ptr() for tensor in kept)
