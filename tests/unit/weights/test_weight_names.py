"""Names that wrappers add, and files that lack or have too much: CLIP towers, text towers, students, BERT, stage 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from umt_ds.errors import WeightsError
from umt_ds.weights.names import bare_names
from umt_ds.weights.published import (
    bert_state,
    encoder_state,
    is_video_text,
    student_state,
    teacher_state,
    text_teacher_state,
    video_text_state,
)

State = dict[str, Tensor]


def state(*names: str) -> State:
    return {name: torch.full((2, 2), float(number)) for number, name in enumerate(names)}


OPEN_CLIP = state(
    "visual.conv1.weight", "visual.transformer.resblocks.0.ln_1.weight", "visual.proj", "positional_embedding",
    "transformer.resblocks.0.ln_1.weight", "text_projection",
)  # fmt: skip
CUSTOM_CLIP = state("visual.trunk.patch_embed.proj.weight", "text.token_embedding.weight", "logit_scale")
STUDENT = state("encoder.patch_embed.proj.weight", "encoder.blocks.0.norm1.bias", "clip_decoder.0.head.weight")
BERT = state("bert.embeddings.word_embeddings.weight", "cls.predictions.bias", "bert.encoder.layer.0.output.dense.bias")
STAGE2 = state("vision_encoder.encoder.norm.bias", "vision_proj.weight") | {
    f"text_encoder.bert.embeddings.{name}": torch.zeros(2) for name in ("LayerNorm.bias", "word_embeddings.weight")
}


def hugging_face(layers: int = 2) -> State:
    """A vision tower of Hugging Face's names; every tensor has its own values."""
    top = ["embeddings.class_embedding", "embeddings.patch_embedding.weight", "embeddings.position_embedding.weight"]
    top += [f"{norm}.{kind}" for norm in ("pre_layrnorm", "post_layernorm") for kind in ("weight", "bias")]
    parts = ["layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"]
    parts += [f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")]
    deep = [
        f"encoder.layers.{index}.{part}.{kind}"
        for index in range(layers)
        for part in parts
        for kind in ("weight", "bias")
    ]
    return state(*(f"vision_model.{name}" for name in (*top, *deep)), "visual_projection.weight", "logit_scale")


KINDS: dict[str, tuple[State, Callable[[State], State]]] = {
    "open_clip": (OPEN_CLIP, teacher_state),
    "a CLIP of timm": (CUSTOM_CLIP, teacher_state),
    "a bare tower": (state("conv1.weight", "proj"), teacher_state),
    "Hugging Face": (hugging_face(), teacher_state),
    "the text tower": (OPEN_CLIP, text_teacher_state),
    "a text tower apart": (CUSTOM_CLIP, text_teacher_state),
    "a student": (STUDENT, student_state),
    "an encoder": (STUDENT, encoder_state),
    "BERT": (BERT, bert_state),
    "stage 2": (STAGE2, video_text_state),
}


def under(prefix: str) -> Callable[[State], State]:
    return lambda names: {f"{prefix}{name}": value for name, value in names.items()}


def each_part_wrapped(names: State) -> State:
    """As where DDP, FSDP or torch.compile took parts of a model: `visual._orig_mod.conv1.weight`."""
    return {name.replace(".", "._orig_mod.", 1): value for name, value in names.items()}


def with_counters(names: State) -> State:
    return names | {"n_averaged": torch.tensor(3), "embeddings.position_ids": torch.arange(4)}


WRAPPINGS: dict[str, Callable[[State], State]] = {
    "DDP": under("module."),
    "DDP twice": under("module.module."),
    "torch.compile": under("_orig_mod."),
    "torch.compile of DDP": under("_orig_mod.module."),
    "DDP of torch.compile": under("module._orig_mod."),
    "FSDP": under("_fsdp_wrapped_module."),
    "a trainer's attribute": under("model."),
    "a trainer's attribute under DDP": under("module.model."),
    "parts compiled": each_part_wrapped,
    "an average": with_counters,
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_wrappers_add_to_names_is_taken_off(kind: str, wrapping: str) -> None:
    names, translate = KINDS[kind]
    plain, wrapped = translate(names), translate(WRAPPINGS[wrapping](names))
    assert plain.keys() == wrapped.keys()
    assert all(torch.equal(wrapped[name], value) for name, value in plain.items())


def test_stage_2_is_known_under_any_wrapper() -> None:
    assert all(is_video_text(wrap(STAGE2)) for wrap in WRAPPINGS.values())
    assert not is_video_text(STUDENT)


def test_two_names_of_one_tensor_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"'visual.conv1.weight' and 'module.visual.conv1.weight'"):
        teacher_state({**OPEN_CLIP, **under("module.")(OPEN_CLIP)})
    with pytest.raises(WeightsError, match="one and the same"):
        bert_state(BERT | state("bert.a.LayerNorm.gamma", "bert.a.LayerNorm.weight"))
    with pytest.raises(WeightsError, match="one and the same"):
        student_state(STUDENT | state("patch_embed.proj.weight"))


def test_names_without_wrappers_stay() -> None:
    names = state("model.a", "b.module_list.c", "module")
    assert bare_names(names).keys() == names.keys()


@pytest.mark.parametrize("clip", [OPEN_CLIP, CUSTOM_CLIP, hugging_face()], ids=["open_clip", "timm", "hugging face"])
def test_a_clip_beside_other_things_is_found(clip: State) -> None:
    """As Lightning saves a model and the weights of its loss."""
    beside = {f"model.{name}": value for name, value in clip.items()} | state("loss.weight")
    found, own = teacher_state(beside), teacher_state(clip)
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], own[name]) for name in own)


def test_a_text_tower_beside_other_things_is_found() -> None:
    beside = {f"model.{name}": value for name, value in OPEN_CLIP.items()} | state("loss.weight")
    assert text_teacher_state(beside).keys() == text_teacher_state(OPEN_CLIP).keys()


@pytest.mark.parametrize("clip", [OPEN_CLIP, CUSTOM_CLIP, hugging_face()], ids=["open_clip", "timm", "hugging face"])
def test_of_two_towers_none_is_taken(clip: State) -> None:
    both = {f"{place}.{name}": value for place in ("model", "ema") for name, value in clip.items()}
    with pytest.raises(WeightsError, match=r"2 towers.*ema\."):
        teacher_state(both)


# ---------------------------------------------------------------- Hugging Face's tower


def test_a_missing_tensor_of_a_hugging_face_tower_is_named() -> None:
    names = hugging_face()
    del names["vision_model.encoder.layers.1.mlp.fc1.weight"], names["vision_model.pre_layrnorm.bias"]
    with pytest.raises(WeightsError, match="2 missing: ") as caught:
        teacher_state(names)
    assert "encoder.layers.1.mlp.fc1.weight" in str(caught.value)
    assert "pre_layrnorm.bias" in str(caught.value)


def test_a_layer_left_out_is_named() -> None:
    names = {name: value for name, value in hugging_face(4).items() if ".layers.2." not in name}
    with pytest.raises(WeightsError, match=r"encoder\.layers\.2\."):
        teacher_state(names)


@pytest.mark.parametrize(
    "extra",
    [
        "encoder.layers.0.self_attn.q_proj.lora_A.weight",
        "encoder.layers.x.mlp.fc1.weight",
        "encoder.layers.99999999999999.mlp.fc1.weight",
        "embeddings.newest",
        "head.probe",
    ],
)
def test_a_tensor_that_nobody_reads_is_named(extra: str) -> None:
    with pytest.raises(WeightsError, match="unknown: ") as caught:
        teacher_state(hugging_face() | state(f"vision_model.{extra}"))
    assert extra in str(caught.value)


def test_only_a_file_without_projection_is_called_a_bare_vision_model() -> None:
    names = hugging_face()
    for wrap in WRAPPINGS.values():
        teacher_state(wrap(names))
    del names["visual_projection.weight"]
    for wrap in WRAPPINGS.values():
        with pytest.raises(WeightsError, match="no visual_projection"):
            teacher_state(wrap(names))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("vision_model.encoder.layers.0.self_attn.q_proj.weight", (3, 7)),
        ("vision_model.encoder.layers.0.self_attn.q_proj.bias", ()),
        ("visual_projection.weight", (2, 2, 2)),
    ],
)
def test_shapes_that_do_not_go_together_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(WeightsError, match="shape"):
        teacher_state(hugging_face() | {name: torch.zeros(shape)})


# ---------------------------------------------------------------- towers that the weights do not fit


TOWER: dict[str, Any] = {
    "embed_dim": 10,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 24, "layers": 2, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 60, "width": 16, "heads": 2, "layers": 1},
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("positional_embedding", torch.zeros(())),
        ("positional_embedding", torch.zeros(7)),
        ("positional_embedding", torch.zeros(12, 24)),
        ("positional_embedding", torch.zeros(0, 24)),
        ("positional_embedding", torch.zeros(1, 17, 24)),
        ("conv1.weight", torch.zeros(24, 3, 0, 8, 8)),
        ("conv1.weight", torch.zeros(24)),
        ("transformer.resblocks.2.ln_1.weight", torch.zeros(24)),
        ("transformer.resblocks.1.ln_1.weight", None),
    ],
)
def test_a_tower_that_does_not_fit_is_refused_in_one_line(name: str, value: Tensor | None) -> None:
    from umt_ds.models.teachers import build_teacher

    weights = build_teacher(TOWER, layers=1).tower.visual.state_dict()
    changed = {key: kept for key, kept in weights.items() if key != name} | ({} if value is None else {name: value})
    with pytest.raises(WeightsError, match=name.replace(".", r"\.")) as caught:
        build_teacher(TOWER, layers=1, state=teacher_state(changed))
    assert "\n" not in caught.value.what


def test_the_temperature_of_another_shape_is_refused() -> None:
    from umt_ds.weights.load import load_strict

    module = nn.Module()
    module.temp = nn.Parameter(torch.zeros(1))
    for given in (torch.tensor(0.07), torch.tensor([0.07])):
        load_strict(module, video_text_state({"temp": given}), where="test")
        assert module.temp.item() == pytest.approx(0.07)
    with pytest.raises(WeightsError, match="temp"):
        load_strict(module, video_text_state({"temp": torch.zeros(2)}), where="test")


def test_the_file_is_named_by_whoever_knows_it(tmp_path: Path) -> None:
    from umt_ds.config.models import TeacherConfig, TowerConfig
    from umt_ds.tasks.teacher import load_teacher

    tower = TowerConfig(image_size=16, patch_size=8, width=24, layers=2, heads=3, out_width=10)
    names = hugging_face()
    for number, content in enumerate((names, {"a": torch.ones(1)}, {"conv1.weight": torch.ones(1)})):
        path = tmp_path / f"{number}.pt"
        torch.save(content, path)
        with pytest.raises(WeightsError, match=str(path)):
            load_teacher(TeacherConfig(preset="custom", tower=tower, layers=2, weights=path))
