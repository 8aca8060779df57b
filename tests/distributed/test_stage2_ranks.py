"""Stage 2 on several ranks is one big batch: each part of the objective, in loss and in gradient (bare gloo)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.distributed.stage2_calls import TEXTS
from tests.support.ranks import call, run_ranks
from tests.support.stage2 import gradients, inputs_of, tiny_module, tiny_rows

GLOBAL = {"vtm": {"negatives": "global"}, "mlm": {"mean": "global"}}
CASES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "uta": ("video", {}, ["uta"]),
    "vtc": ("video", {}, ["vtc"]),
    "vtm": ("video", GLOBAL, ["vtm"]),
    "mlm": ("image", GLOBAL, ["mlm"]),
    "all": ("image", GLOBAL, ["vtc", "vtm", "mlm", "uta"]),
    "sliced": ("video", {"vtc": {"gather": "sliced"}}, ["vtc"]),
    "local": ("video", {}, ["vtm", "mlm"]),
}


@pytest.fixture(scope="module")
def ranks() -> dict[int, dict[str, list[Any]]]:
    """world → case → what each rank returned."""
    calls = [
        call("tests.distributed.stage2_calls:objective", medium=m, settings=s, parts=p) for m, s, p in CASES.values()
    ]
    return {
        world: dict(zip(CASES, zip(*run_ranks(world, calls), strict=True), strict=True)) for world in (2, 4)
    }  # fmt: skip


def big_batch(case: str, slots: range = range(8)) -> tuple[float, dict[str, torch.Tensor]]:
    medium, settings, parts = CASES[case]
    module = tiny_module(loss_weights={n: float(n in parts) for n in ("vtc", "vtm", "mlm", "uta")}, **settings)
    texts = [TEXTS[slot] for slot in slots]
    rows = tiny_rows(medium, slots, texts=texts, mlm="mlm" in parts, uta="uta" in parts)  # type: ignore[arg-type]
    losses = module(inputs_of(rows))
    losses.total.backward()
    return float(losses.total.detach()), gradients(module)


def assert_gradients(found: dict[str, list[float]], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        within = 2e-4 * max(1e-3, float(gradient.abs().max()))
        ours = torch.tensor(found[name]).view_as(gradient)
        torch.testing.assert_close(ours, gradient, rtol=0, atol=within, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("case", ["uta", "vtc", "vtm", "mlm", "all"])
def test_ranks_together_are_one_big_batch(case: str, world: int, ranks: dict[int, dict[str, list[Any]]]) -> None:
    loss, expected = big_batch(case)
    for result in ranks[world][case]:
        assert result["loss"] == pytest.approx(loss, rel=1e-5)
        assert_gradients(result["gradients"], expected)


@pytest.mark.parametrize("world", [2, 4])
def test_a_sliced_gather_gives_encoders_a_share_of_the_gradient_as_published(
    world: int, ranks: dict[int, dict[str, list[Any]]]
) -> None:
    loss, expected = big_batch("sliced")
    result = ranks[world]["sliced"][0]
    assert result["loss"] == pytest.approx(loss, rel=1e-5)
    assert_gradients(result["gradients"], {n: g if n == "temp" else g / world for n, g in expected.items()})


@pytest.mark.parametrize("world", [2, 4])
def test_local_negatives_and_means_are_those_of_a_rank_alone(
    world: int, ranks: dict[int, dict[str, list[Any]]]
) -> None:
    each = 8 // world
    alone = [big_batch("local", range(rank * each, (rank + 1) * each)) for rank in range(world)]
    for result, (loss, _) in zip(ranks[world]["local"], alone, strict=True):
        assert result["own"] == pytest.approx(loss, rel=1e-5)
    mean = {name: sum(grads[name] for _, grads in alone) / world for name in alone[0][1]}
    assert_gradients(ranks[world]["local"][0]["gradients"], mean)  # type: ignore[arg-type]
