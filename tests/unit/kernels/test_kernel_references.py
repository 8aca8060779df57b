"""The references, which all kernels are held against, are the published arithmetic step by step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from umt_ds.kernels.align_loss import align_loss
from umt_ds.kernels.embed_visible import embed_visible
from umt_ds.kernels.embed_visible.reference import centre, centred_patches
from umt_ds.kernels.keep_tokens import keep_tokens
from umt_ds.kernels.philox import Purpose, uniform

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def test_folding_the_normalisation_changes_neither_tokens_nor_gradients() -> None:
    """In fp64, against /255, minus mean, by deviation, and a Conv2d."""
    pixels = torch.randint(0, 256, (1, 2, 12, 8, 3), dtype=torch.uint8)
    weight = torch.randn(5, 48, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (MEAN, STD))

    normalised = ((pixels / 255.0).double() - mean) / std
    frames = normalised[0].permute(0, 3, 1, 2)
    plain = F.conv2d(frames, weight.view(5, 3, 4, 4), bias, stride=4).flatten(2).transpose(1, 2).flatten(0, 1)[None]
    folded = embed_visible(pixels, None, weight, bias, None, patch=4, mean=MEAN, std=STD)

    torch.testing.assert_close(folded, plain, rtol=0, atol=1e-6)  # /255 is fp32
    upstream = torch.randn_like(plain)
    for ours, theirs in zip(
        torch.autograd.grad(folded, (weight, bias), upstream),
        torch.autograd.grad(plain, (weight, bias), upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pixels_minus_the_centre_are_exact_in_half_precision(dtype: torch.dtype) -> None:
    values = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 3).reshape(1, 1, 16, 16, 3)
    rounded = centred_patches(values, None, patch=16, mean=MEAN, dtype=dtype)
    exact = values.double() - torch.tensor(centre(MEAN), dtype=torch.float64)
    assert torch.equal(rounded.double().flatten(), exact.flatten())


def test_bytes_of_a_patch_stand_in_the_order_of_memory() -> None:
    pixels = torch.arange(48, dtype=torch.uint8).reshape(1, 1, 4, 4, 3)
    patches = centred_patches(pixels, torch.tensor([[3]]), patch=2, mean=(0, 0, 0), dtype=torch.float32)
    assert patches.flatten().tolist() == [30, 31, 32, 33, 34, 35, 42, 43, 44, 45, 46, 47]


def test_the_distance_is_layer_norm_of_its_own_eps_and_cosine() -> None:
    hidden = 1e-3 * torch.randn(3, 7, 16)  # low variance: another eps would show
    target = torch.randn(3, 7, 16)
    weight, bias = torch.randn(16), 0.1 * torch.randn(16)
    for eps in (1e-6, 1e-5):
        cosine = F.cosine_similarity(F.layer_norm(hidden, (16,), weight, bias, eps), target, dim=-1)
        expected = (2 - 2 * cosine).mean()
        torch.testing.assert_close(align_loss(hidden, weight, bias, target, eps=eps), expected, rtol=0, atol=1e-6)


def test_the_distance_of_half_precision_is_computed_in_fp32() -> None:
    hidden, target = torch.randn(40, 64).bfloat16(), torch.randn(40, 64).bfloat16()
    weight, bias = torch.ones(64).bfloat16(), torch.zeros(64).bfloat16()
    halves = align_loss(hidden, weight, bias, target, eps=1e-6)
    assert halves.dtype == torch.float32
    wide = align_loss(hidden.double(), weight.double(), bias.double(), target.double(), eps=1e-6)
    assert abs(halves.item() - wide.item()) < 1e-6


def test_the_noise_of_a_patch_is_the_word_of_its_place_in_the_clip() -> None:
    """Lane t·S + s of the clip's slot under Purpose.MASK: with even attention the highest numbers are kept."""
    slots, frames, patches, visible = torch.tensor([11, 4]), 3, 5, 2
    kept = keep_tokens(torch.ones(2, frames, patches), seed=8, step=9, slots=slots, visible=visible)
    noise = uniform(8, 9, slots, frames * patches, Purpose.MASK)
    for row, numbers in zip(kept.tolist(), noise.tolist(), strict=True):
        expected = []
        for frame in range(frames):
            places = range(frame * patches, (frame + 1) * patches)
            expected += sorted(sorted(places, key=lambda place: -numbers[place])[:visible])
        assert row == expected
