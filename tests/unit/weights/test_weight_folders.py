"""Folders of `save_pretrained`, in one file or several, by folder or by index; and folders that are something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from umt_ds.errors import CheckpointError, WeightsError
from umt_ds.tasks.initial import read_weights
from umt_ds.weights.clip_folder import differences
from umt_ds.weights.load import read_state

STATE = {"a": torch.arange(4.0), "b": torch.ones(2, 3), "c": torch.zeros(5)}
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
PLACES = {"a": FIRST, "b": FIRST, "c": SECOND}


def assert_is_state(state: dict[str, Tensor]) -> None:
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], value) for name, value in STATE.items())


def save_parts(folder: Path, save: Callable[[Any, Path], None] = save_file, kind: str = "model.safetensors") -> Path:
    """Two files and their index, which is returned."""
    name, suffix = kind.rsplit(".", 1)
    files = [f"{name}-0000{number}-of-00002.{suffix}" for number in (1, 2)]
    save({"a": STATE["a"], "b": STATE["b"]}, folder / files[0])
    save({"c": STATE["c"]}, folder / files[1])
    places = {"a": files[0], "b": files[0], "c": files[1]}
    index = folder / f"{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 60}, "weight_map": places}))
    return index


@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
)
def test_a_folder_with_one_weight_file_is_that_file(tmp_path: Path, name: str) -> None:
    (save_file if name.endswith("safetensors") else torch.save)(STATE, tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    assert_is_state(read_weights(tmp_path))


@pytest.mark.parametrize(("save", "kind"), [(save_file, "model.safetensors"), (torch.save, "pytorch_model.bin")])
def test_several_files_are_read_by_folder_and_by_index(tmp_path: Path, save: Any, kind: str) -> None:
    index = save_parts(tmp_path, save, kind)
    assert_is_state(read_weights(tmp_path))
    assert_is_state(read_weights(index))
    assert_is_state(read_state(str(index)))


def test_of_both_kinds_safetensors_is_taken_as_transformers_does(tmp_path: Path) -> None:
    save_parts(tmp_path)
    torch.save({"old": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert_is_state(read_weights(tmp_path))


def test_transformers_own_folder_is_read(tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3, image_size=16, patch_size=8,
        projection_dim=10,
    )  # fmt: skip
    network = CLIPVisionModelWithProjection(config)
    network.save_pretrained(tmp_path / "whole")
    network.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    whole, parts = (read_weights(tmp_path / name) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() == {k for k in network.state_dict() if not k.endswith("position_ids")}
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        (
            "config.json",
            {"model_type": "clip_vision_model", "hidden_act": "gelu"},
            "hidden_act='gelu', not 'quick_gelu'",
        ),
        (
            "config.json",
            {"model_type": "clip", "vision_config": {"num_attention_heads": 6}},
            "num_attention_heads=6, not 3",
        ),
        (
            "config.json",
            {"model_type": "clip", "vision_config": {"hidden_act": "quick_gelu", "num_attention_heads": 3}},
            "",
        ),
        ("config.json", {"model_type": "bert", "hidden_act": "gelu"}, ""),
        ("config.json", {"model_type": ["clip"], "vision_config": 1}, ""),
        ("config.json", [], "holds a list"),
        ("open_clip_config.json", {"model_cfg": {"vision_cfg": {}}}, "quick_gelu=False, not True"),
        ("open_clip_config.json", {"model_cfg": {"vision_cfg": {}, "quick_gelu": True}}, ""),
        ("open_clip_config.json", {"model_cfg": {"vision_cfg": {"timm_model_name": "x"}}}, ""),
    ],
)
def test_what_a_clips_folder_says_of_another_model_is_told(tmp_path: Path, name: str, config: Any, said: str) -> None:
    (tmp_path / name).write_text(json.dumps(config))
    (tmp_path / "model.safetensors").touch()
    told = differences(tmp_path, quick_gelu=True, heads=3)
    assert said in told
    assert bool(said) == bool(told)
    assert differences(tmp_path / "model.safetensors", quick_gelu=True, heads=3) == told
    assert differences(tmp_path / "vit_b16.pth", quick_gelu=True, heads=3) == ""


# ---------------------------------------------------------------- an index that is wrong


def index_of(folder: Path, **change: Any) -> Path:
    index = save_parts(folder)
    index.write_text(json.dumps({"weight_map": {**PLACES, **change}}))
    return index


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    return str(caught.value)


def test_each_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    index_of(tmp_path, d="model-00003-of-00004.safetensors", e="model-00004-of-00004.safetensors")
    said = refusal(tmp_path)
    assert "model-00003-of-00004.safetensors, model-00004-of-00004.safetensors" in said
    assert "not there" in said


def test_a_tensor_that_is_listed_and_absent_is_named(tmp_path: Path) -> None:
    assert "lacks tensors" in (said := refusal(index_of(tmp_path, d=SECOND)))
    assert "d" in said
    assert SECOND in said


def test_a_tensor_that_is_not_listed_is_a_stranger(tmp_path: Path) -> None:
    index = save_parts(tmp_path)
    save_file({"c": STATE["c"], "stranger": torch.ones(1)}, tmp_path / SECOND)
    assert "stranger" in refusal(index)
    save_file({"c": STATE["c"], "a": torch.ones(4)}, tmp_path / SECOND)
    assert "does not list there: a" in refusal(index)


@pytest.mark.parametrize("name", ["../w.safetensors", "/etc/passwd", "sub/w.safetensors", "..", "", 7, None, "a\0b"])
def test_an_index_names_files_beside_it_and_no_others(tmp_path: Path, name: Any) -> None:
    save_file({"d": torch.ones(1)}, tmp_path / "w.safetensors")
    (tmp_path / "model").mkdir()
    assert "not the name of a file beside it" in refusal(index_of(tmp_path / "model", d=name))


@pytest.mark.parametrize("content", ['{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": null}'])
def test_an_index_without_tensors_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / INDEX).write_text(content)
    assert "names no tensors" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff{}", b"[" * 99999, b"3", b'{"metadata": {}}'])
def test_an_index_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / INDEX).write_bytes(content)
    assert INDEX in refusal(tmp_path)


def test_an_index_of_indices_is_refused(tmp_path: Path) -> None:
    index = save_parts(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": INDEX}}))
    assert "index again" in refusal(index)


def test_a_pointer_among_the_files_is_called_so(tmp_path: Path) -> None:
    index = save_parts(tmp_path)
    (tmp_path / SECOND).write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "Git LFS" in (said := refusal(index))
    assert SECOND in said


# ---------------------------------------------------------------- a folder that is something else


def test_a_folder_that_is_neither_run_nor_model_says_what_is_in_it(tmp_path: Path) -> None:
    assert "it is empty" in refusal(tmp_path)
    for number in range(9):
        (tmp_path / f"clip_{number}.pt").write_text("")
    said = refusal(tmp_path)
    assert "neither a run nor a model" in said
    assert "clip_0.pt, clip_1.pt" in said
    assert "and 4 more" in said
    assert "model.safetensors" in said
    assert "checkpoints" in said


def test_a_model_may_have_a_folder_called_checkpoints(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "checkpoints" / "checkpoint-500").mkdir(parents=True)
    assert_is_state(read_weights(tmp_path))


def test_a_run_without_a_checkpoint_is_a_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        read_weights(tmp_path)


def test_weights_that_are_no_numbers_are_refused_in_folders_too(tmp_path: Path) -> None:
    index = save_parts(tmp_path)
    save_file({"c": STATE["c"] / 0}, tmp_path / SECOND)
    assert "NaN" in refusal(index)
