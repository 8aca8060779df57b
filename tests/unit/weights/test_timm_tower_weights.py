"""Weights of teachers from every form they are published in: timm's, open_clip's, their authors', Hugging Face's.

Shapes: F images, S patches, P prefix tokens, W width.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.support.tiny_towers import open_clip_config, randomised
from umt_ds.config.models import TeacherConfig
from umt_ds.errors import WeightsError
from umt_ds.models.teachers import Teacher, build_teacher
from umt_ds.tasks.teacher import load_teacher
from umt_ds.weights.folder_pixels import pixels_of_folder
from umt_ds.weights.load import read_state
from umt_ds.weights.timm_towers import timm_state

SIZES: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
IMAGES = 2


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def hugging_face(name: str) -> Any:
    """A tiny model of transformers, nothing at its neutral start, whose twin in timm has that name."""
    import transformers as hf

    made: dict[str, Any] = {
        # timm's GELU of this name is exact; that of its authors is approximate, up to 5e-4 apart (METHOD.md)
        "tiny_siglip": lambda: hf.SiglipVisionModel(
            hf.SiglipVisionConfig(num_hidden_layers=6, intermediate_size=128, hidden_act="gelu", **SIZES)
        ),
        "tiny_dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(num_hidden_layers=6, **SIZES)),
        "tiny_dinov2_reg": lambda: hf.Dinov2WithRegistersModel(
            hf.Dinov2WithRegistersConfig(num_hidden_layers=6, num_register_tokens=4, **SIZES)
        ),
        "tiny_dinov3_qkvb": lambda: hf.DINOv3ViTModel(
            hf.DINOv3ViTConfig(num_hidden_layers=6, intermediate_size=128, num_register_tokens=4, **SIZES)
        ),
        "tiny_aimv2": lambda: hf.Aimv2VisionModel(
            hf.Aimv2VisionConfig(num_hidden_layers=6, intermediate_size=88, **SIZES)
        ),
    }
    model = made[name]().eval()
    model.load_state_dict(randomised(model))
    return model


def tokens_of(teacher: Teacher, images: Tensor) -> Tensor:
    """The features of the last block for all patches: [F,S,W]."""
    keep = torch.arange(16).expand(IMAGES, -1)
    return teacher.attend(images[:, :, None]).features(keep)[-1]


@pytest.mark.parametrize("form", ["saved", "in memory"])
@pytest.mark.parametrize(
    ("name", "prefix_tokens"),
    [("tiny_siglip", 0), ("tiny_dinov2", 1), ("tiny_dinov2_reg", 5), ("tiny_dinov3_qkvb", 5), ("tiny_aimv2", 0)],
)
def test_a_hugging_face_model_is_the_same_teacher(name: str, prefix_tokens: int, form: str, tmp_path: Path) -> None:
    """What save_pretrained writes has the names of the hub's files; a state dict has those of version 5."""
    model = hugging_face(name)
    if form == "saved":
        model.save_pretrained(tmp_path)
        state = read_state(tmp_path)
    else:
        state = model.state_dict()
    images = torch.randn(IMAGES, 3, 32, 32)
    with torch.no_grad():
        expected = model(images).last_hidden_state[:, prefix_tokens:]
    teacher = build_teacher(name, layers=2, norm="none", state=timm_state(state))
    torch.testing.assert_close(tokens_of(teacher, images), expected, rtol=1e-4, atol=2e-5)
    if name == "tiny_siglip":  # the pooling head too: its embedding is the head's output
        with torch.no_grad():
            pooled = model(images).pooler_output
        torch.testing.assert_close(teacher.attend(images[:, :, None]).embedding()[:, 0], pooled, rtol=1e-4, atol=2e-5)


def test_a_dinov3_whose_biases_are_zero_fits_the_name_without_them_and_no_other_does() -> None:
    """Its authors' layout: one bias for queries, keys and values, zero in the distilled models."""
    library = timm.create_model("tiny_dinov3_qkvb", num_classes=0)
    state = {name: value for name, value in library.state_dict().items() if not name.endswith(("q_bias", "v_bias"))}
    state = {name.replace("reg_token", "storage_tokens"): value for name, value in state.items()}
    state = {name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma"): v for name, v in state.items()}
    state |= {f"blocks.{index}.attn.qkv.bias": torch.zeros(96) for index in range(6)}
    state |= {"mask_token": torch.zeros(1, 32), "rope_embed.periods": torch.ones(4)}
    build_teacher("tiny_dinov3", layers=2, state=timm_state(state))
    build_teacher("tiny_dinov3_qkvb", layers=2, state=timm_state(state))
    state["blocks.3.attn.qkv.bias"] = torch.ones(96)
    with pytest.raises(WeightsError, match="take the name ending in _qkvb"):
        build_teacher("tiny_dinov3", layers=2, state=timm_state(state))


class OfOpenClip(nn.Module):
    """A CLIP of open_clip whose image tower is timm's, with a text tower beside it."""

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.visual = nn.ModuleDict({"trunk": trunk})
        self.text = nn.Linear(2, 2)


def test_the_tower_of_an_open_clip_file_is_found_below_its_prefixes() -> None:
    trunk = timm.create_model("tiny_eva02_clip", num_classes=24, global_pool="token")
    file = {f"module.model.{name}": value for name, value in OfOpenClip(trunk).state_dict().items()}
    teacher = build_teacher(open_clip_config("tiny_eva02_clip"), layers=2, state=timm_state(file))
    assert teacher.out_width == 24
    assert torch.equal(teacher.tower.visual.head.weight, trunk.head.weight)


def test_a_file_of_two_towers_or_half_a_layer_is_refused() -> None:
    trunk = timm.create_model("tiny_dinov2", num_classes=0).state_dict()
    two = {f"{side}.{name}": value for side in ("teacher", "student") for name, value in trunk.items()}
    with pytest.raises(WeightsError, match="the file holds 2 towers"):
        timm_state(two)
    half = hugging_face("tiny_dinov2").state_dict()
    del half["encoder.layer.1.attention.v_proj.weight"]
    with pytest.raises(WeightsError, match="has no key or value beside it"):
        timm_state(half)


# The folder says which pixels


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("open_clip_config.json", {"preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 0.5]}}),
        ("preprocessor_config.json", {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 0.5]}),
        ("config.json", {"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 0.5]}}),
    ],
)
def test_mean_and_deviation_are_read_from_what_lies_beside_the_weights(
    file: str, content: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").touch()
    assert pixels_of_folder(tmp_path) is None
    (tmp_path / file).write_text(json.dumps(content))
    found = pixels_of_folder(tmp_path / "model.safetensors")
    assert found is not None
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (1.0, 1.0, 0.5))
    assert pixels_of_folder(tmp_path / "other.safetensors") is None, "a file of its own"


def test_a_mean_that_is_not_three_numbers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5], "image_std": [0.5, 0.5, 0.5]}')
    with pytest.raises(WeightsError, match=r"image_mean in .* is not three numbers"):
        pixels_of_folder(tmp_path)


def test_a_run_takes_pixels_from_the_folder_and_says_what_of_a_file_it_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of a timm model, as its hub has it."""
    save_file(timm.create_model("tiny_dinov2", num_classes=3).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}}')
    monkeypatch.setattr(logging.getLogger("umt_ds"), "propagate", True)
    settings = TeacherConfig(preset="tiny_dinov2", weights=tmp_path, pixels="own", layers=2)
    with caplog.at_level(logging.INFO, logger="umt_ds"):
        teacher, _ = load_teacher(settings)
    assert teacher.statistics.mean == (0.1, 0.2, 0.3)
    assert "2 tensors are no part of the teacher: head.bias, head.weight" in caplog.text
    assert "masks from the attention of its class token; the last block runs on kept tokens alone" in caplog.text
