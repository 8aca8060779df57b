"""What Triton compiles anew for, and what it does not."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch

from umt_ds.errors import MachineError
from umt_ds.kernels.launch import Launch, compile_for, variant

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def keep_launch(*, seed: int = 3, step: int = 3, clips: int = 2, dtype: torch.dtype = torch.float32) -> Launch:
    from umt_ds.kernels.keep_tokens import triton

    attention = torch.empty(clips, 2, 10, device="meta", dtype=dtype)
    slots = torch.empty(clips, device="meta", dtype=torch.int64)
    out = torch.empty(clips, 6, device="meta", dtype=torch.int64)
    return triton.launch(attention, out, seed=seed, step=step, slots=slots, visible=3)


@pytest.mark.parametrize("value", [0, 1, 16, 17, 2**31, 2**32 - 1])
def test_no_step_no_seed_and_no_batch_compiles_anew(value: int) -> None:
    """Triton makes 1 a constant and multiples of 16 a kind of their own: each step of a run would be a new kernel."""
    assert variant(keep_launch(seed=value, step=value, clips=5)) == variant(keep_launch())


def test_a_dtype_does() -> None:
    types = variant(keep_launch(dtype=torch.bfloat16))[0]
    assert (types["attention"], types["seed"], types["step"]) == ("*bf16", "u64", "u32")
    assert variant(keep_launch())[0]["attention"] == "*fp32"


@pytest.mark.parametrize(
    ("value", "kind", "constant", "known"),
    [(1, "constexpr", 1, False), (32, "i32", None, True), (33, "i32", None, False)],
)
def test_numbers_are_specialised_as_the_launcher_does(value: int, kind: str, constant: Any, known: bool) -> None:
    launch = keep_launch()
    types, constants, hints = variant(Launch(launch.kernel, launch.grid, launch.arguments | {"frames": value}))
    assert types["frames"] == kind
    assert constants.get("frames") == constant
    place = list(launch.arguments).index("frames")
    assert ((place,) in hints) == known


def test_the_interpreter_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(MachineError, match="the interpreter compiles nothing"):
        compile_for(keep_launch(), 90)
