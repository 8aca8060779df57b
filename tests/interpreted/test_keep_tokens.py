"""The Triton kernel of keep_tokens draws what its reference draws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernels import DTYPES, check_keep_tokens
from umt_ds.kernels.keep_tokens import triton

# numpy's, which the interpreter computes with, on the logarithms of what is no probability
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.mark.parametrize(
    ("shape", "visible"),
    [((2, 2, 1), 1), ((1, 3, 3), 2), ((2, 2, 33), 7), ((1, 2, 49), 10), ((1, 2, 196), 40), ((1, 1, 197), 197)],
)
def test_awkward_sizes(shape: tuple[int, int, int], visible: int) -> None:
    check_keep_tokens("cpu", torch.rand(shape), visible=visible)


def test_a_thousand_patches() -> None:
    check_keep_tokens("cpu", torch.rand(1, 1, 1023), visible=205)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_dtype_and_strides(dtype: torch.dtype) -> None:
    attention = (
        torch.rand(5, 3, 2, dtype=torch.float32).to(dtype).permute(2, 1, 0)[:, :, 1:]
    )  # as a dropped class column
    assert not attention.is_contiguous()
    check_keep_tokens("cpu", attention, visible=2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, 0.0])
def test_attention_that_is_no_probability(bad: float) -> None:
    attention = torch.rand(1, 3, 9)
    attention[0, 0, ::2] = bad
    attention[0, 1] = bad
    attention[0, 2, 3] = 1e-45  # the smallest number: before zeros still
    check_keep_tokens("cpu", attention, visible=4)


@pytest.mark.parametrize(("seed", "step"), [(0, 0), (1, 1), (2**63 + 5, 2**31 - 1), (-7, 2**32 - 1)])
def test_seeds_and_steps_of_all_widths(seed: int, step: int) -> None:
    check_keep_tokens("cpu", torch.rand(2, 2, 10), visible=3, seed=seed, step=step)


@settings(deadline=None, max_examples=10)
@given(patches=st.integers(1, 40), share=st.floats(0, 1), frames=st.integers(1, 2), seed=st.integers(0, 2**64 - 1))
def test_any_frame_and_share(patches: int, share: float, frames: int, seed: int) -> None:
    attention = torch.rand(1, frames, patches, generator=torch.Generator().manual_seed(seed % 2**62)) ** 4
    check_keep_tokens("cpu", attention, visible=max(1, round(share * patches)), seed=seed)


def test_equal_keys_go_to_the_lower_index() -> None:
    """Infinite attention makes equal keys of all patches."""
    out = triton.keep_tokens(torch.full((1, 2, 20), math.inf), seed=0, step=0, slots=torch.arange(1), visible=3)
    assert out.tolist() == [[0, 1, 2, 20, 21, 22]]
