"""Attention, fixed and packed: torch's own and flash-attn's door against the plain formula; which of them runs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from umt_ds.kernels.attention import Lengths, attention, attention_packed, flash, fused, reference

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.manual_seed(0)
    monkeypatch.delenv("UMT_KERNELS", raising=False)
    yield
    flash._chosen.cache_clear()


def three(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (torch.randn(shape).requires_grad_() for _ in range(3))
    return query, key, value


def gradients(out: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return torch.autograd.grad((out * torch.arange(out.numel()).view_as(out).cos()).sum(), inputs)


# ---------------------------------------------------------------- what is computed


def test_the_reference_is_the_formula_head_by_head() -> None:
    query, key, value = torch.randn(1, 3, 2, 4), torch.randn(1, 5, 2, 4), torch.randn(1, 5, 2, 4)
    out = reference.attention(query, key, value)
    for head in range(2):
        q, k, v = query[0, :, head], key[0, :, head], value[0, :, head]
        torch.testing.assert_close(out[0, :, head], torch.softmax(q @ k.T / 2, dim=-1) @ v)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (3, 3), (33, 40), (40, 197)])
def test_torchs_own_is_the_reference(queries: int, keys: int) -> None:
    inputs = (three(2, queries, 3, 8)[0], *three(2, keys, 3, 8)[1:])
    ours, expected = attention(*inputs), reference.attention(*inputs)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    for mine, its in zip(gradients(ours, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-4)


@pytest.mark.parametrize("way", [attention, reference.attention])
def test_causal_attention_is_a_loop_over_growing_prefixes(way: Callable[..., Tensor]) -> None:
    inputs = three(2, 5, 3, 8)
    query, key, value = inputs
    prefixes = [reference.attention(query[:, n : n + 1], key[:, : n + 1], value[:, : n + 1]) for n in range(5)]
    ours, expected = way(*inputs, causal=True), torch.cat(prefixes, dim=1)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    for mine, its in zip(gradients(ours, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(tokens=st.lists(st.sampled_from([1, 3, 5, 40]), min_size=1, max_size=6))
def test_a_packed_row_is_its_sequences_one_by_one(tokens: list[int]) -> None:
    inputs, lengths = three(sum(tokens), 2, 8), Lengths(tuple(tokens))
    ours, expected = attention_packed(*inputs, lengths), reference.attention_packed(*inputs, lengths)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    for mine, its in zip(gradients(ours, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-4)


def test_no_token_sees_another_sequence() -> None:
    lengths = Lengths((3, 4))
    query, key, value = three(7, 1, 8)
    before = attention_packed(query, key, value, lengths)
    with torch.no_grad():
        key[3:], value[3:] = torch.nan, torch.nan
    assert torch.equal(attention_packed(query, key, value, lengths)[:3], before[:3])


def test_lengths_that_do_not_fit_the_row_are_refused() -> None:
    with pytest.raises(ValueError, match="sequences of 7 tokens in all, but a row of 8"):
        attention_packed(*three(8, 1, 8), Lengths((3, 4)))


def test_runs_and_offsets_of_lengths() -> None:
    lengths = Lengths((320, 320, 40, 320))
    assert lengths.runs == ((320, 2), (40, 1), (320, 1))
    assert (lengths.total, lengths.longest) == (1000, 320)
    offsets = lengths.offsets(torch.device("cpu"))
    assert (offsets.dtype, offsets.tolist()) == (torch.int32, [0, 320, 640, 680, 1000])
    assert lengths.offsets(torch.device("cpu")) is offsets


def test_torch_compile_traces_through_both_doors() -> None:
    lengths = Lengths((4, 4, 5))
    row, batch = three(13, 2, 8), three(2, 4, 2, 8)
    fixed = torch.compile(attention, fullgraph=True, backend="eager")
    packed = torch.compile(attention_packed, fullgraph=True, backend="eager")
    torch.testing.assert_close(fixed(*batch), attention(*batch))
    torch.testing.assert_close(packed(*row, lengths), attention_packed(*row, lengths))


def test_torch_compile_takes_offsets_as_a_constant() -> None:
    lengths, row = Lengths((3, 4)), torch.zeros(7)
    compiled = torch.compile(lambda x: x[0] + lengths.offsets(x.device), fullgraph=True, backend="eager")
    assert compiled(row).tolist() == [0, 3, 7]


# ---------------------------------------------------------------- flash-attn's door


def stand_in(*, with_lse: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """flash_attn_func and flash_attn_varlen_func as their sources declare them, computed by the reference."""

    def returned(out: Tensor) -> Any:
        return (out, torch.zeros(1)) if with_lse else out

    def flash_attn_func(
        q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, deterministic: bool = False
    ) -> Any:  # what we leave at its default is left out
        assert not causal
        return returned(reference.attention(q, k, v))

    def flash_attn_varlen_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        *,
        causal: bool = False,
        deterministic: bool = False,
    ) -> Any:
        assert not causal
        assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
        assert torch.equal(cu_seqlens_q, cu_seqlens_k)
        tokens = tuple(cu_seqlens_q.diff().tolist())
        assert max_seqlen_q == max_seqlen_k == max(tokens)
        return returned(reference.attention_packed(q, k, v, Lengths(tokens)))

    return flash_attn_func, flash_attn_varlen_func


def install(monkeypatch: pytest.MonkeyPatch, *versions: flash.Version) -> None:
    """Modules of these names, with stand-ins; the other versions are not installed."""
    monkeypatch.setitem(sys.modules, "flash_attn_interface", None)
    root = ModuleType("flash_attn")
    monkeypatch.setitem(sys.modules, "flash_attn", root if {2, 4} & set(versions) else None)
    monkeypatch.setitem(sys.modules, "flash_attn.cute", None)
    for version in versions:
        name = {2: "flash_attn", 3: "flash_attn_interface", 4: "flash_attn.cute"}[version]
        module = root if version == 2 else ModuleType(name)
        module.flash_attn_func, module.flash_attn_varlen_func = stand_in(with_lse=version == 4)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
        if version == 4:
            root.cute = module  # type: ignore[attr-defined]
    if sys.modules["flash_attn"] is None:
        monkeypatch.setitem(sys.modules, "flash_attn.cute", None)
    flash._chosen.cache_clear()


@pytest.mark.parametrize("version", [2, 3, 4])
def test_each_version_is_called_as_it_declares(version: flash.Version, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, version)
    batch, row, lengths = three(2, 5, 3, 8), three(12, 3, 8), Lengths((5, 5, 2))
    assert torch.equal(flash.attention(*batch, version=version), reference.attention(*batch))
    packed = flash.attention_packed(*row, lengths, version=version)
    assert torch.equal(packed, reference.attention_packed(*row, lengths))


@pytest.mark.parametrize(
    ("capability", "installed", "width", "chosen"),
    [
        ((8, 0), (2, 3, 4), 64, 2),
        ((9, 0), (2, 3, 4), 64, 3),
        ((9, 0), (2, 4), 64, 4),
        ((9, 0), (2, 4), 80, 2),  # version 4 has no such heads
        ((9, 0), (4,), 80, None),
        ((9, 0), (2,), 64, 2),
        ((10, 0), (2, 3, 4), 64, 4),
        ((8, 6), (3, 4), 64, None),
        ((7, 5), (2, 3, 4), 64, None),
        ((9, 0), (), 64, None),
        ((9, 0), (2, 3), 12, None),
    ],
)
def test_the_fastest_version_that_is_installed_and_fits_is_chosen(
    capability: tuple[int, int],
    installed: tuple[flash.Version, ...],
    width: int,
    chosen: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, *installed)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert flash.choose(GPU, torch.bfloat16, width).version == chosen
    assert flash.choose(GPU, torch.float32, width).version is None
    assert flash.choose(torch.device("cpu"), torch.bfloat16, width).version is None
    monkeypatch.setenv("UMT_KERNELS", "torch")
    assert flash.choose(GPU, torch.bfloat16, width) == flash.Choice(None, "UMT_KERNELS=torch")


@pytest.mark.parametrize(
    "error", [ImportError("undefined symbol: _ZN3c105"), ModuleNotFoundError("No module named 'einops'", name="einops")]
)
def test_a_version_that_is_installed_but_broken_is_said_once_and_passed_over(
    error: ImportError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(monkeypatch, 2)
    monkeypatch.delitem(sys.modules, "flash_attn_interface")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))

    class Broken:
        """An extension built for another torch, or without what it needs."""

        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "flash_attn_interface":
                raise error

    monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path])
    for _ in range(2):
        assert flash.chosen_version(GPU, torch.bfloat16, 64) == 2
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert f"flash-attn 3 is installed but fails: {type(error).__name__}: {error}" in record.getMessage()


def test_the_doors_hand_over_to_the_chosen_version(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, 4)
    monkeypatch.setattr(flash, "chosen_version", lambda device, dtype, width: 4)
    monkeypatch.setattr(fused, "attention", None)
    batch, row, lengths = three(2, 5, 3, 8), three(12, 3, 8), Lengths((5, 5, 2))
    assert torch.equal(attention(*batch), reference.attention(*batch))
    compiled = torch.compile(attention, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*batch), reference.attention(*batch))
    assert torch.equal(attention_packed(*row, lengths), reference.attention_packed(*row, lengths))
