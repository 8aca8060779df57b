"""Checkpoint folders of DeepSpeed: the float32 weights of stages 1 to 3 are joined as its own script joins them."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from umt_ds.errors import WeightsError
from umt_ds.tasks.initial import read_weights
from umt_ds.weights.load import read_state


class Stage(enum.IntEnum):
    """Files hold DeepSpeed's own types beside the numbers."""

    optimizer_states = 1


def weights() -> list[OrderedDict[str, Tensor]]:
    """Two groups of parameters, of odd sizes."""
    torch.manual_seed(0)
    return [
        OrderedDict({"a.weight": torch.randn(3, 5), "b.weight": torch.randn(7)}),
        OrderedDict({"a.bias": torch.randn(5)}),
    ]


def write(folder: Path, *, stage: int, ranks: int, precision: torch.dtype = torch.bfloat16) -> Path:
    """A checkpoint in DeepSpeed's form; returns the folder of its step."""
    step = folder / "global_step7"
    step.mkdir(parents=True)
    (folder / "latest").write_text("global_step7")
    groups = weights()
    state = {name: value.to(precision) for group in groups for name, value in group.items()}
    state["tied"] = state["a.weight"]
    state["table"] = torch.arange(4.0)
    module = {
        "module": {name: torch.zeros(0) for name in state} | {"table": state["table"]} if stage == 3 else state,
        "buffer_names": ["table"],
        "param_shapes": [OrderedDict((name, value.shape) for name, value in group.items()) for group in groups],
        "frozen_param_shapes": None,
        "frozen_param_fragments": None,
        "shared_params": {"tied": "a.weight"},
        "ds_version": "0.19.8",
        "ds_config": {"zero_optimization": {"stage": stage}},
        "stage": Stage.optimizer_states,
    }
    for rank in range(ranks):
        name = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"
        torch.save(module, step / name)
        if stage > 0:
            told = {"optimizer_state_dict": share(groups, stage, rank, ranks), "ds_version": "0.19.8"}
            torch.save(told, step / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    return step


def share(groups: list[OrderedDict[str, Tensor]], stage: int, rank: int, ranks: int) -> dict[str, Any]:
    told: dict[str, Any] = {"zero_stage": stage, "partition_count": ranks}
    if stage == 3:
        parts = []
        for value in (value for group in groups for value in group.values()):
            each = math.ceil(value.numel() / ranks)
            parts.append(F.pad(value.reshape(-1), (0, each * ranks - value.numel()))[rank * each : (rank + 1) * each])
        return told | {"fp32_flat_groups": [torch.cat(parts)]}
    flat = [torch.cat([value.reshape(-1) for value in group.values()]) for group in groups]
    even = [F.pad(one, (0, -len(one) % (2 * ranks))) for one in flat]
    parts = [one.view(ranks, -1)[rank].clone() for one in even]
    paddings = [2 * ranks - len(one) % (2 * ranks) for one in flat] if stage == 2 else None
    told |= {"partition_count": [ranks, ranks]} if stage == 2 else {}
    return told | {"single_partition_of_fp32_groups": parts, "group_paddings": paddings}


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_weights_are_joined_in_float32_as_deepspeed_joins_them(tmp_path: Path, stage: int, ranks: int) -> None:
    step = write(tmp_path, stage=stage, ranks=ranks)
    state = read_weights(tmp_path)
    expected = {name: value for group in weights() for name, value in group.items()}
    expected |= {"tied": expected["a.weight"], "table": torch.arange(4.0)}
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert read_weights(step).keys() == expected.keys(), "the folder of the step does as well"

    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    theirs = get_fp32_state_dict_from_zero_checkpoint(str(tmp_path))
    assert all(torch.equal(state[name], value) for name, value in theirs.items())
    assert theirs.keys() == state.keys()


def test_stage_0_and_the_file_of_a_rank_are_read_in_the_precision_of_training(tmp_path: Path) -> None:
    step = write(tmp_path, stage=0, ranks=1, precision=torch.float16)
    for path in (tmp_path, step, step / "mp_rank_00_model_states.pt"):
        assert read_weights(path)["a.weight"].dtype == torch.float16


def test_a_share_alone_is_refused_with_the_folder_to_name(tmp_path: Path) -> None:
    step = write(tmp_path, stage=3, ranks=2)
    for name in ("zero_pp_rank_0_mp_rank_00_model_states.pt", "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"):
        with pytest.raises(WeightsError, match="share of one rank") as caught:
            read_state(step / name)
        assert str(step) in str(caught.value.hint)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_missing_share_is_said(tmp_path: Path, stage: int) -> None:
    step = write(tmp_path, stage=stage, ranks=2)
    (step / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(WeightsError, match="shares of 1 ranks"):
        read_weights(tmp_path)


def test_stage_3_without_any_share_is_refused(tmp_path: Path) -> None:
    step = write(tmp_path, stage=3, ranks=1)
    (step / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(WeightsError, match="lacks the files"):
        read_weights(tmp_path)


def test_a_model_that_was_cut_among_ranks_is_refused(tmp_path: Path) -> None:
    step = write(tmp_path, stage=1, ranks=1)
    (step / "mp_rank_01_model_states.pt").write_bytes((step / "mp_rank_00_model_states.pt").read_bytes())
    with pytest.raises(WeightsError, match="parallelism"):
        read_weights(tmp_path)


def test_a_share_that_is_too_short_or_damaged_is_one_error(tmp_path: Path) -> None:
    step = write(tmp_path, stage=1, ranks=1)
    path = step / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
    whole = path.read_bytes()
    torch.save(
        {"optimizer_state_dict": {"zero_stage": 1, "partition_count": 1,
                                  "single_partition_of_fp32_groups": [torch.ones(3), torch.ones(5)]}}, path
    )  # fmt: skip
    with pytest.raises(WeightsError, match="damaged"):
        read_weights(tmp_path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="damaged"):
        read_weights(tmp_path)
