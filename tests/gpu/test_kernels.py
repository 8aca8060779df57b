"""The kernels as they run on a GPU: the references' numbers, without waiting for the host, in little memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.support.kernels import DTYPES, MEAN, STD, check_align_loss, check_embed_visible, check_keep_tokens
from umt_ds.kernels.align_loss import align_loss
from umt_ds.kernels.attention import Lengths, attention, attention_packed, flash, fused, reference
from umt_ds.kernels.backend import runs_triton
from umt_ds.kernels.embed_visible import embed_visible
from umt_ds.kernels.keep_tokens import keep_tokens

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.fixture
def _no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the device raises."""
    yield
    torch.cuda.set_sync_debug_mode("default")


def test_triton_runs_here() -> None:
    assert runs_triton(torch.zeros(1, device="cuda"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (5, 197), (2, 1023), (33, 320, 512), (17, 320, 768)])
def test_align_loss(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check_align_loss("cuda", shape=shape, dtype=dtype, weights=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("patch", "clip", "visible", "width"),
    [
        (4, (1, 1, 1, 1), 1, 1),
        (16, (3, 2, 3, 4), 11, 40),
        (16, (4, 8, 14, 14), 320, 768),
        (14, (2, 4, 14, 14), None, 1024),
    ],
)
def test_embed_visible(
    patch: int, clip: tuple[int, int, int, int], visible: int | None, width: int, dtype: torch.dtype
) -> None:
    check_embed_visible("cuda", patch=patch, clip=clip, visible=visible, width=width, dtype=dtype)


@pytest.mark.parametrize("patches", [1, 3, 33, 49, 196, 197, 1023])
def test_keep_tokens_draws_what_a_cpu_draws(patches: int) -> None:
    attention_rows = torch.rand(8, 4, patches) ** 4
    check_keep_tokens("cuda", attention_rows, visible=max(1, patches // 5), seed=2**63 + 1, step=2**31)


@pytest.mark.usefixtures("_no_waiting")
def test_no_kernel_makes_the_host_wait() -> None:
    pixels = torch.randint(0, 256, (4, 8, 224, 224, 3), dtype=torch.uint8, device="cuda")
    rows = torch.rand(4, 8, 196, device="cuda")
    weight = torch.randn(64, 768, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    one, zero = torch.ones(64, device="cuda"), torch.zeros(64, device="cuda")
    slots, lengths = torch.arange(4, device="cuda"), Lengths((320,) * 4)
    positions = torch.randn(1568, 64, device="cuda")

    def step(number: int) -> None:
        keep = keep_tokens(rows, seed=1, step=number, slots=slots, visible=40)
        bias = zero.bfloat16().requires_grad_()
        tokens = embed_visible(pixels, keep, weight, bias, positions, patch=16, mean=MEAN, std=STD)
        heads = tokens.flatten(0, 1)[:, None]
        mixed = attention_packed(heads, heads, heads, lengths)[:, 0].view_as(tokens)
        align_loss(mixed, one, zero, torch.ones_like(mixed), eps=1e-6).backward()

    step(1)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    step(2)
    step(16)


def test_align_loss_is_the_same_to_the_bit_each_time() -> None:
    hidden = torch.randn(5000, 512, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(512, device="cuda", requires_grad=True)
    bias = torch.zeros(512, device="cuda", requires_grad=True)
    target = torch.randn_like(hidden)
    runs = []
    for _ in range(3):
        loss = align_loss(hidden, weight, bias, target, eps=1e-6)
        runs.append((loss, *torch.autograd.grad(loss, (hidden, weight, bias))))
    for run in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(run, runs[0], strict=True))


def test_align_loss_makes_nothing_wide_of_the_size_of_its_rows() -> None:
    hidden = torch.randn(40_000, 512, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    target = torch.randn_like(hidden)
    one, zero = torch.ones(512, device="cuda"), torch.zeros(512, device="cuda")
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    torch.autograd.grad(align_loss(hidden, one, zero, target, eps=1e-6), hidden)
    size = hidden.numel() * 2
    assert torch.cuda.max_memory_allocated() - before < 2.3 * size, "two gradients in bf16, and sums of programs"


def three(*shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    query, key, value = (torch.randn(shape, device="cuda", dtype=torch.bfloat16).requires_grad_() for _ in range(3))
    return query, key, value


def close_with_gradients(ours: torch.Tensor, expected: torch.Tensor, inputs: tuple[torch.Tensor, ...]) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-2)
    upstream = torch.randn_like(expected)
    for mine, its in zip(
        torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(mine, its, rtol=0, atol=4e-2)


@pytest.mark.parametrize("tokens", [1, 3, 40, 197, 320])
def test_the_chosen_attention_is_the_formula(tokens: int) -> None:
    batch = three(2, tokens, 4, 64)
    close_with_gradients(attention(*batch), reference.attention(*batch), batch)
    lengths = Lengths((tokens, tokens, 40, 3, 1))
    row = three(lengths.total, 4, 64)
    close_with_gradients(attention_packed(*row, lengths), reference.attention_packed(*row, lengths), row)


def test_every_flash_attn_that_is_installed_is_the_formula() -> None:
    versions, broken = flash.installed(torch.device("cuda", 0), 64)
    assert broken == []
    if not versions:
        pytest.skip("no flash-attn for this GPU is installed")
    lengths = Lengths((320, 320, 40))
    batch, row = three(2, 197, 4, 64), three(680, 4, 64)
    for version in versions:
        close_with_gradients(flash.attention(*batch, version=version), reference.attention(*batch), batch)
        packed = flash.attention_packed(*row, lengths, version=version)
        close_with_gradients(packed, reference.attention_packed(*row, lengths), row)
    close_with_gradients(fused.attention_packed(*row, lengths), reference.attention_packed(*row, lengths), row)
