"""Each Triton kernel against its torch reference, forward and gradient, on any device.

On the CPU through Triton's interpreter (`tests/interpreted`), on a GPU as they run there (`tests/gpu`).

Shapes: B clips, T frames, S patches of a frame, V kept tokens of a clip, D and C widths, R rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from umt_ds.kernels.align_loss import reference as align_reference
from umt_ds.kernels.align_loss import triton as align_triton
from umt_ds.kernels.embed_visible import reference as embed_reference
from umt_ds.kernels.embed_visible import triton as embed_triton
from umt_ds.kernels.keep_tokens import reference as keep_reference
from umt_ds.kernels.keep_tokens import triton as keep_triton
from umt_ds.kernels.keep_tokens.reference import LOG_OF_ZERO
from umt_ds.kernels.philox import Purpose, uniform

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def close(ours: Tensor, reference: Tensor, *, roundings: int) -> None:
    """Equal to fp32 rounding of sums, or to so many roundings to half precision of the largest value."""
    assert ours.dtype == reference.dtype
    assert ours.shape == reference.shape
    largest = reference.abs().max().item()
    epsilon = 1e-5 if ours.dtype == torch.float32 else roundings * torch.finfo(ours.dtype).eps
    torch.testing.assert_close(ours.float(), reference.float(), rtol=0, atol=epsilon * max(largest, 1e-3))


def check_align_loss(
    device: str, *, shape: Sequence[int], dtype: torch.dtype, weights: torch.dtype, spread: float = 1.0
) -> None:
    """Loss, and the gradients of hidden, weight and bias under a factor from above. spread: of the values of a row."""
    generator = torch.Generator().manual_seed(0)

    def leaf(*of: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn(of, generator=generator).to(device, kind).requires_grad_()

    width = shape[-1]
    hidden = (spread * leaf(*shape)).detach().requires_grad_()
    inputs = (hidden, leaf(width, kind=weights), leaf(width, kind=weights))
    target = 30 * leaf(*shape).detach()
    ours = align_triton.align_loss(*inputs, target, eps=1e-6)
    reference = align_reference.align_loss(*inputs, target, eps=1e-6)
    assert ours.shape == ()
    close(ours, reference, roundings=0)
    pairs = zip(torch.autograd.grad(3 * ours, inputs), torch.autograd.grad(3 * reference, inputs), strict=True)
    for our_gradient, gradient in pairs:
        close(our_gradient, gradient, roundings=2)


def check_keep_tokens(device: str, attention: Tensor, *, visible: int, seed: int = 3, step: int = 5) -> None:
    """The reference's indices, except where two keys are equal to rounding."""
    clips, frames, patches = attention.shape
    slots = 2**32 - 1 - torch.arange(clips)  # all 32 bits
    asked = {"seed": seed, "step": step, "visible": visible}
    ours = keep_triton.keep_tokens(attention.to(device), slots=slots.to(device), **asked).cpu()
    reference = keep_reference.keep_tokens(attention, slots=slots, **asked)
    assert ours.dtype == torch.int64
    assert ours.shape == reference.shape
    noise = uniform(seed, step, slots, frames * patches, Purpose.MASK).double()
    weight = attention.double().flatten(1)
    keys = torch.where(weight > 0, weight.log(), LOG_OF_ZERO) - torch.log(-torch.log(noise))  # [B,T·S]
    for row, our_row, key in zip(reference.tolist(), ours.tolist(), keys.tolist(), strict=True):
        assert our_row == sorted(set(our_row))
        assert [place // patches for place in our_row] == [place // patches for place in row], "so many of each frame"
        swapped = zip(sorted(set(our_row) - set(row)), sorted(set(row) - set(our_row)), strict=True)
        for one, other in swapped:
            assert abs(key[one] - key[other]) <= 1e-6 * max(1.0, abs(key[one])), "the keys lie within rounding"


def check_embed_visible(
    device: str, *, patch: int, clip: tuple[int, int, int, int], visible: int | None, width: int, dtype: torch.dtype
) -> None:
    """Tokens, and the gradients of weight and bias, from a crop of larger frames. clip: (B, T, rows, columns)."""
    generator = torch.Generator().manual_seed(0)
    clips, frames, rows, cols = clip
    size = (clips, frames, rows * patch + 5, cols * patch + 3, 3)
    whole = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8).to(device)
    pixels = whole[:, :, 2:-3, 1:-2]
    tokens = frames * rows * cols
    keep = None
    if visible is not None:
        drawn = [torch.randperm(tokens, generator=generator)[:visible].sort().values for _ in range(clips)]
        keep = torch.stack(drawn).to(device)
    fan = 3 * patch**2
    weight = (torch.randn(width, fan, generator=generator) / fan**0.5).to(device, dtype).requires_grad_()
    bias = torch.randn(width, generator=generator).to(device, dtype).requires_grad_()
    positions = torch.randn(tokens, width, generator=generator).to(device)
    with_all = {"patch": patch, "mean": MEAN, "std": STD}

    ours = embed_triton.embed_visible(pixels, keep, weight, bias, positions, **with_all)
    reference = embed_reference.embed_visible(pixels, keep, weight, bias, positions, **with_all)
    close(ours, reference, roundings=2)  # the reference rounds the product, the position and the sum

    upstream = torch.randn(ours.shape, generator=generator).to(device, dtype)
    pairs = zip(*(torch.autograd.grad(out, (weight, bias), upstream) for out in (ours, reference)), strict=True)
    for our_gradient, gradient in pairs:
        close(our_gradient, gradient, roundings=1)
