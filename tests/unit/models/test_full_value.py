"""A parameter whose exact value counts keeps it when its module is cast."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.support.stage2 import inputs_of, tiny_module, tiny_rows
from umt_ds.models.full_value import full_value, is_kept_full, keep_full

LOW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def parameter(value: float) -> nn.Parameter:
    made = nn.Parameter(torch.tensor([value]))
    keep_full(made)
    return made


@LOW
def test_a_cast_does_not_change_what_is_calculated_with(dtype: torch.dtype) -> None:
    one = parameter(0.07)
    one.data = one.data.to(dtype)
    assert abs(one.item() - 0.07) > 5e-6, "or this test says nothing"
    assert full_value(one).dtype == torch.float32
    assert full_value(one).item() == torch.tensor(0.07).item()


@LOW
def test_every_value_is_said_exactly(dtype: torch.dtype) -> None:
    values = torch.logspace(-3, 0, 2000)
    one = nn.Parameter(values.clone())
    keep_full(one)
    one.data = one.data.to(dtype)
    assert torch.equal(full_value(one), values)


@LOW
def test_the_gradient_is_that_of_the_parameter(dtype: torch.dtype) -> None:
    one = parameter(0.07)
    one.data = one.data.to(dtype)
    (1 / full_value(one)).sum().backward()
    assert one.grad is not None
    assert one.grad.dtype == dtype
    assert one.grad.item() == pytest.approx(-1 / 0.07**2, rel=5e-3)


def test_what_others_change_stands_for_itself() -> None:
    one = parameter(0.07)
    with torch.no_grad():
        one.fill_(0.05)
    assert full_value(one).item() == torch.tensor(0.05).item()
    one.data = one.data.bfloat16()
    assert full_value(one).item() == one.item()
    keep_full(one, torch.tensor([0.05]))
    assert full_value(one).item() == torch.tensor(0.05).item()


def test_a_parameter_of_which_nothing_was_said_is_itself_in_fp32() -> None:
    one = nn.Parameter(torch.tensor([0.07], dtype=torch.bfloat16))
    assert not is_kept_full(one)
    assert full_value(one).item() == one.item()


def test_a_model_of_videos_and_texts_cast_to_bf16_divides_by_the_temperature_that_it_has() -> None:
    module, rows = tiny_module(), tiny_rows("video", range(4))
    parts: dict[str, Tensor] = module.bfloat16()(inputs_of(rows)).parts
    assert parts["temperature"].item() == pytest.approx(0.07, abs=1e-8)
    assert module.temp.dtype == torch.bfloat16
    assert {name: tuple(p.shape) for name, p in module.named_parameters() if "temp" in name} == {"temp": (1,)}
