"""Weight files: what is read, what is refused and why, strict loading, and the published layouts."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from umt_ds.errors import WeightsError
from umt_ds.models.alignment import AlignmentModel
from umt_ds.models.presets import VitSize
from umt_ds.models.teachers import build_teacher
from umt_ds.models.vit import VideoViT
from umt_ds.weights.load import load_strict, read_state
from umt_ds.weights.published import encoder_state, student_state, teacher_state

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(1, dtype=torch.float16)}
POCKET: dict[str, Any] = {
    "embed_dim": 10,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 24, "layers": 3, "head_width": 8},
}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for key, value in right.items():
        assert torch.equal(left[key], value), key


# Reading


def test_safetensors_and_torch_files_are_read_flat(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    torch.save(STATE, tmp_path / "w.pth")
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("w.safetensors", "w.pth", "old.pth"):
        assert_same(read_state(tmp_path / name), STATE)


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict"])
def test_wrapped_states_are_unwrapped(tmp_path: Path, wrapper: str) -> None:
    torch.save({wrapper: STATE, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "w.pth")
    assert_same(read_state(str(tmp_path / "w.pth")), STATE)


def test_the_authors_training_checkpoints_hold_a_namespace_and_are_read(tmp_path: Path) -> None:
    torch.save({"model": STATE, "args": argparse.Namespace(lr=1e-3)}, tmp_path / "checkpoint-latest.pth")
    assert_same(read_state(tmp_path / "checkpoint-latest.pth"), STATE)


class Evil:
    """A pickle of this writes a file when it is loaded carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    torch.save({"model": STATE, "extra": Evil(tmp_path / "harm")}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="could run code") as caught:
        read_state(tmp_path / "w.pth")
    assert not (tmp_path / "harm").exists()
    assert "save_file" in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(WeightsError, match=r"no weight file /nowhere/w\.pth"):
        read_state("/nowhere/w.pth")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "old.pth"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_truncated_file_is_called_damaged(tmp_path: Path, name: str, share: float) -> None:
    big = {"w": torch.randn(1000), "v": torch.randn(10)}
    path = tmp_path / name
    if name == "w.safetensors":
        save_file(big, path)
    else:
        torch.save(big, path, _use_new_zipfile_serialization=name == "w.pth")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(WeightsError, match=r"damaged|no weight file"):
        read_state(path)


@pytest.mark.parametrize("content", [torch.ones(2), {}, {"lr": 0.1}, {"model": {"w": [1, 2]}}, [torch.ones(1)]])
def test_a_file_without_a_flat_state_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"holds no state dict|are no named tensors"):
        read_state(tmp_path / "w.pth")


# Loading


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def test_a_fitting_state_is_copied_and_counted() -> None:
    source, target = model(), model()
    report = load_strict(target, source.state_dict(), where="test")
    assert_same(target.state_dict(), source.state_dict())
    assert (report.loaded, report.fresh, report.unused) == (6, (), ())


def test_all_misfits_are_named_at_once_up_to_five_each_and_nothing_is_copied() -> None:
    target = model()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    state = {key: value + 1 for key, value in target.state_dict().items()}
    del state["0.bias"]
    state["2.weight"] = torch.zeros(7, 4)
    state |= {f"extra.{i}": torch.zeros(1) for i in range(8)}
    with pytest.raises(WeightsError) as caught:
        load_strict(target, state, where="b16.pth")
    message = str(caught.value)
    assert "b16.pth" in message
    assert "1 missing in the file: 0.bias" in message
    assert "1 of another shape: 2.weight (7, 4), not (2, 4)" in message
    assert "8 unknown to the model: extra.0, extra.1, extra.2, extra.3, extra.4, … and 3 more" in message
    assert_same(target.state_dict(), before)


def test_ignored_prefixes_are_left_alone_on_both_sides_and_reported() -> None:
    source, target = model(), model()
    head = target[2].weight.clone()
    state = {key: value for key, value in source.state_dict().items() if key != "2.bias"}
    state["2.weight"] = torch.zeros(710, 4)  # a head of other classes
    state["clip_decoder.0.head.bias"] = torch.zeros(1)
    report = load_strict(target, state, where="test", ignore=("2.", "clip_decoder."))
    assert torch.equal(target[0].weight, source[0].weight)
    assert torch.equal(target[2].weight, head)
    assert report.loaded == 4
    assert sorted(report.fresh) == ["2.bias", "2.weight"]
    assert sorted(report.unused) == ["2.weight", "clip_decoder.0.head.bias"]


# Published layouts


def openclip_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = build_teacher(POCKET, layers=2).tower.visual.state_dict()
    return {key: torch.randn_like(value) for key, value in state.items()}


def test_openai_and_openclip_layouts_bare_and_prefixed_give_the_same_tower() -> None:
    state = openclip_state()
    whole = {f"visual.{key}": value for key, value in state.items()} | {"token_embedding.weight": torch.ones(2)}
    whole |= {"transformer.resblocks.0.ln_1.weight": torch.ones(3)}  # of the text tower
    assert_same(teacher_state(state), state)
    assert_same(teacher_state(whole), state)


@pytest.mark.parametrize("depth", [1, 3])
def test_an_inflated_patch_embedding_gives_its_middle_slice(depth: int) -> None:
    state = openclip_state()
    inflated = torch.zeros(*state["conv1.weight"].shape[:2], depth, *state["conv1.weight"].shape[2:])
    inflated[:, :, depth // 2] = state["conv1.weight"]
    assert_same(teacher_state({**state, "conv1.weight": inflated}), state)


def hugging_face() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=24, intermediate_size=96, num_hidden_layers=3, num_attention_heads=3, image_size=32,
        patch_size=8, projection_dim=10, hidden_act="quick_gelu", attn_implementation="eager",
    )  # fmt: skip
    network = CLIPVisionModelWithProjection(config).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def test_hugging_face_weights_give_the_features_of_the_hugging_face_model() -> None:
    network = hugging_face()
    teacher = build_teacher(POCKET, layers=3, state=teacher_state(network.state_dict()))
    frames = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        seen = network.vision_model(frames, output_hidden_states=True, output_attentions=True)
        layers = torch.stack(seen.hidden_states[1:])[:, :, 1:]
        features = network.visual_projection(network.vision_model.post_layernorm(layers))

    ours = teacher.attend(frames[:, :, None])

    assert ours.attention is not None
    torch.testing.assert_close(ours.attention[:, 0], seen.attentions[-1].mean(1)[:, 0, 1:], rtol=0, atol=1e-5)
    targets = ours.targets(torch.arange(16).expand(2, -1))
    torch.testing.assert_close(targets, F.normalize(features, dim=-1), rtol=0, atol=1e-5)


def test_hugging_face_layouts_with_text_tower_or_without_prefix_are_the_same() -> None:
    state = hugging_face().state_dict()
    whole = state | {
        "text_model.encoder.layers.0.mlp.fc1.weight": torch.ones(1),
        "logit_scale": torch.ones(1),
    }
    bare = {key.removeprefix("vision_model."): value for key, value in state.items()}
    assert_same(teacher_state(whole), teacher_state(state))
    assert_same(teacher_state(bare), teacher_state(state))


def test_a_bare_hugging_face_vision_model_lacks_its_projection() -> None:
    state = hugging_face().state_dict()
    del state["visual_projection.weight"]
    with pytest.raises(WeightsError, match="no visual_projection"):
        teacher_state(state)


def test_a_file_without_a_vision_tower_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"no CLIP vision tower among 2 tensors, the first is 'a.weight'"):
        teacher_state(STATE)
    with pytest.raises(WeightsError, match="no UMT student"):
        student_state(STATE)


@pytest.mark.parametrize("prefix", ["", "backbone.", "module."])
def test_published_students_load_whole_or_as_an_encoder(prefix: str) -> None:
    size = VitSize(width=24, depth=2, heads=3, patch=8)
    source, target = (AlignmentModel(VideoViT(size), out_width=10, layers=2) for _ in range(2))
    file = {f"{prefix}{key}": value for key, value in source.state_dict().items()}

    load_strict(target, student_state(file), where="test")
    assert_same(target.state_dict(), source.state_dict())

    encoder = VideoViT(size)
    load_strict(encoder, encoder_state(file), where="test")
    assert_same(encoder.state_dict(), source.encoder.state_dict())


@pytest.mark.parametrize("prefix", ["", "backbone.", "encoder."])
def test_a_bare_encoder_gets_the_student_names(prefix: str) -> None:
    encoder = VideoViT(VitSize(width=24, depth=2, heads=3, patch=8))
    file = {f"{prefix}{key}": value for key, value in encoder.state_dict().items()}
    assert_same(encoder_state(file), encoder.state_dict())
    assert all(key.startswith("encoder.") for key in student_state(file))
