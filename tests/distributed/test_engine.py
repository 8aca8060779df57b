"""The DeepSpeed door on two gloo ranks, against plain torch on one: numbers, resume, NaN.

One launch for all stages: starting two DeepSpeed ranks costs more than all the steps.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch

from tests.distributed import calls
from tests.distributed.evaluator_calls import scores
from tests.support.ranks import call, run_ranks
from tests.support.shards import noisy_frames, write_shards
from umt_ds.evaluation.encode import ALONE

torch.set_num_threads(1)
WORLD, STEPS = 2, 20
FP32: list[dict[str, Any]] = [{"zero_optimization": {"stage": stage}} for stage in range(4)]
BF16 = [{**settings, "bf16": {"enabled": True}} for settings in FP32]
FP16 = [{**FP32[2], "fp16": {"enabled": True, "initial_scale_power": 8}}]
# stage 1 in DeepSpeed's BF16_Optimizer, which keeps fp32 weights in a way of its own
FP32_ACCUMULATION = [{**BF16[1], "data_types": {"grad_accum_dtype": "fp32"}}]
OFFLOAD = {"device": "cpu", "pin_memory": False}
OFFLOADED = [
    {"bf16": {"enabled": True}, "zero_optimization": {"stage": 2, "offload_optimizer": OFFLOAD}},
    {
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 3, "offload_optimizer": OFFLOAD, "offload_param": OFFLOAD},
    },
]
# and stage 3 where no weight is small enough to stay on every rank
UNGATHERED = [{"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}]
EVALUATED = [*FP32, *BF16, *FP16, *UNGATHERED, *OFFLOADED]
SCORED = [FP32[0], FP32[3], *UNGATHERED, BF16[3]]
AVERAGED = [*EVALUATED, *FP32_ACCUMULATION]


def _with_options(number: int) -> dict[str, bytes]:
    members = noisy_frames(number)
    said = json.loads(members["json"]) | {"options": [f"clip {number + n}" for n in range(3)], "answer": number % 3}
    return {**members, "json": json.dumps(said).encode()}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Seven held-out clips, and clips that vote on them."""
    folder = tmp_path_factory.mktemp("sets")
    shards = write_shards(folder / "seven", (4, 3), members=_with_options)
    return {"shards": str(shards), "voters": str(write_shards(folder / "voters", (9,), members=noisy_frames, first=5))}


@pytest.fixture(scope="module")
def results(sets: dict[str, str]) -> dict[str, list[Any]]:
    """All calls in one launch; what rank 0 (and, where it matters, rank 1) returned."""
    in_evaluation = "tests.distributed.evaluator_calls"
    everything = {
        "curve": [call("tests.distributed.calls:curve", settings=s, steps=STEPS) for s in FP32 + BF16],
        "resumed": [call("tests.distributed.calls:resumed_equals_unbroken", settings=s) for s in FP32 + BF16 + FP16],
        "layered": [call("tests.distributed.calls:layered_weights", settings=s, steps=3) for s in FP32],
        "full": [call("tests.distributed.calls:full_values", settings=s) for s in FP32 + BF16 + FP16],
        "evaluated": [call("tests.distributed.calls:evaluating_changes_nothing", settings=s) for s in EVALUATED],
        "averages": [call("tests.distributed.calls:averages", settings=s, steps=6) for s in AVERAGED],
        "poisoned": [call("tests.distributed.calls:poisoned_step", settings=s) for s in FP32 + BF16],
        "scores": [
            call(f"{in_evaluation}:zero_scores", settings=s, **sets) for s in (FP32[0], FP32[3], *UNGATHERED, BF16[3])
        ],
        "evaluated_curve": [
            call(f"{in_evaluation}:evaluated_curve", settings=s, steps=4, shards=sets["shards"]) for s in FP32
        ],
    }
    flat = run_ranks(WORLD, [c for group in everything.values() for c in group])
    assert flat[0] == flat[1], "the ranks disagree"
    rest = iter(flat[0])
    return {name: [next(rest) for _ in group] for name, group in everything.items()}


@pytest.fixture(scope="module")
def plain() -> list[list[float]]:
    """The same run without DeepSpeed: one process, the whole batch, torch's AdamW and clipping."""
    module = calls.Toy()
    decayed = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        lr=calls.LR,
        betas=(0.9, 0.95),
    )
    curve = []
    for step in range(STEPS):
        losses = module(calls.toy_rows(step, WORLD))
        optimizer.zero_grad()
        losses.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 0.1)
        optimizer.step()
        curve.append([losses.total.item(), norm.item()])
    return curve


def averages_of_plain_torch() -> dict[str, torch.Tensor]:
    """The weights of `calls.averages` in one process, averaged by hand."""
    module = calls.ScaledToy()
    average = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in module.parameters() if (p.ndim > 1) == decays], "weight_decay": 0.05 * decays}
            for decays in (True, False)
        ],
        lr=calls.LR,
        betas=(0.9, 0.95),
    )
    for step in (0, 1, 3, 4, 5):
        optimizer.zero_grad()
        module(calls.toy_rows(step, WORLD)).total.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 0.1)
        optimizer.step()
        for name, weight in module.named_parameters():
            average[name] = calls.DECAY * average[name] + (1 - calls.DECAY) * weight.detach()
    return average


@pytest.mark.parametrize("stage", range(4))
def test_every_stage_gives_the_loss_and_norm_of_plain_torch_in_fp32(
    stage: int, results: dict[str, list[Any]], plain: list[list[float]]
) -> None:
    assert plain[0][1] > 0.1, "clipping must be at work for this test to say something"
    torch.testing.assert_close(torch.tensor(results["curve"][stage]), torch.tensor(plain), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("stage", range(4))
def test_bf16_stays_near_plain_torch(stage: int, results: dict[str, list[Any]], plain: list[list[float]]) -> None:
    losses = torch.tensor(results["curve"][4 + stage])[:, 0]
    # bf16 keeps 8 bits: 4e-3 relative on activations near 1
    torch.testing.assert_close(losses, torch.tensor(plain)[:, 0], rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("stage", range(4))
def test_each_group_moves_at_its_own_scale_of_the_learning_rate(stage: int, results: dict[str, list[Any]]) -> None:
    """Against torch's AdamW with a learning rate for each parameter."""
    module = calls.LayeredToy()
    begun = {name: weight.clone() for name, weight in module.state_dict().items()}
    groups = [{**group, "lr": calls.LR * group["lr_scale"]} for group in module.groups()]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    for step in range(3):
        optimizer.zero_grad()
        module(calls.toy_rows(step, WORLD)).total.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 0.1)
        optimizer.step()
    for name, parameter in module.named_parameters():
        moved = (parameter.detach() - begun[name]).flatten()
        ours = torch.tensor(results["layered"][stage][name]) - begun[name].flatten()
        torch.testing.assert_close(
            ours, moved, rtol=0, atol=1e-2 * float(moved.abs().max()), msg=lambda m, n=name: n + m
        )


def test_state_by_name_resumes_every_stage_and_precision_bit_for_bit(results: dict[str, list[Any]]) -> None:
    assert results["resumed"] == [True] * len(FP32 + BF16 + FP16)


def test_evaluations_between_steps_change_no_bit_in_any_stage_and_precision(results: dict[str, list[Any]]) -> None:
    assert results["evaluated"] == [True] * len(EVALUATED)


@pytest.mark.parametrize("number", range(len(AVERAGED)))
def test_the_average_of_the_weights_is_that_of_a_plain_loop_without_the_step_that_was_skipped(
    number: int, results: dict[str, list[Any]]
) -> None:
    assert 0 <= results["averages"][number]["apart"] < 1e-6


@pytest.mark.parametrize("stage", range(4))
def test_the_average_is_that_of_a_run_of_plain_torch_in_fp32(stage: int, results: dict[str, list[Any]]) -> None:
    expected = averages_of_plain_torch()
    found = results["averages"][stage]["average"]
    assert found.keys() == expected.keys()
    for name, average in expected.items():
        torch.testing.assert_close(torch.tensor(found[name]), average, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("number", range(len(AVERAGED)))
def test_a_module_that_is_judged_by_its_average_computes_with_it_in_every_stage_and_precision(
    number: int, results: dict[str, list[Any]]
) -> None:
    told = results["averages"][number]
    assert told["judged"] == pytest.approx(told["expected"], rel=1e-6)


@pytest.mark.parametrize("number", range(8))
def test_a_nan_on_one_rank_moves_no_weight_and_is_told(number: int, results: dict[str, list[Any]]) -> None:
    told = results["poisoned"][number]
    assert told == {"applied": False, "norm_is_finite": False, "weights_unchanged": True, "goes_on": True}


@pytest.mark.parametrize("number", range(9))
def test_a_temperature_is_exact_in_every_stage_and_precision(number: int, results: dict[str, list[Any]]) -> None:
    told = results["full"][number]
    assert told["used"] == told["stored"]
    assert told["used"][0] == pytest.approx(0.0699, abs=1e-8)
    moves = [after - before for before, after in itertools.pairwise(told["used"][:: calls.ACCUMULATION])]
    assert all(5e-6 < abs(move) < 2e-5 for move in moves), "steps of 1e-5, which bf16 near .07 has not"


def test_the_optimizer_begins_with_the_weights_that_were_given_and_not_with_their_roundings(
    results: dict[str, list[Any]],
) -> None:
    assert all(told["begins"] for told in results["full"])


@pytest.mark.parametrize("kind", ["knn", "retrieval", "multiple_choice", "classification"])
def test_evaluators_find_at_zero_3_what_they_find_without_deepspeed(
    kind: str, sets: dict[str, str], results: dict[str, list[Any]]
) -> None:
    alone = scores(ALONE, kind=kind, **sets)
    del alone["beats"]
    plain, partitioned, nothing_whole, rounded = (told[kind] for told in results["scores"])
    assert plain == partitioned == nothing_whole == alone
    assert rounded["protocol"]["precision"] == "bf16"


@pytest.mark.parametrize("stage", range(4))
def test_an_evaluation_between_the_steps_changes_no_bit_of_the_training(
    stage: int, results: dict[str, list[Any]]
) -> None:
    told = results["evaluated_curve"][stage]
    assert told["curve"] == results["curve"][stage][:4]
    assert told["found"][0] == results["evaluated_curve"][0]["found"][0]
    assert told["found"][0]["rankme"] != told["found"][3]["rankme"], "it sees the weights of the step"
