"""Stage 1 gives what the published modules give: tables, student, gradients, teacher, masks, key names.

Every size and name comes from the files themselves, so that other files of the same form are judged unedited.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from umt_ds.kernels.keep_tokens.reference import keep_highest
from umt_ds.kernels.philox import Purpose, uniform
from umt_ds.losses.alignment import alignment_loss
from umt_ds.models.alignment import AlignmentModel
from umt_ds.models.positions import finetune_table, sincos_table
from umt_ds.models.presets import VitSize, vit_size
from umt_ds.models.teachers import build_teacher
from umt_ds.models.vit import VideoViT
from umt_ds.weights.load import load_strict
from umt_ds.weights.published import student_state, teacher_state

Golden = Callable[[str], Any]
Keys = Callable[..., dict[str, tuple[int, ...]]]
TABLES = {"rtol": 0, "atol": 1e-6}
OUTPUTS = {"rtol": 0, "atol": 1e-5}


def test_sincos_tables_are_the_published_ones(golden: Golden) -> None:
    tables = golden("sincos.pt")
    plain = {name: found for name in tables if (found := re.fullmatch(r"t(\d+)x(\d+)", name))}
    assert plain
    for name, found in plain.items():
        tokens, width = map(int, found.groups())
        torch.testing.assert_close(sincos_table(tokens, width)[None], tables[name], **TABLES)


def test_finetune_tables_are_the_published_interpolation(golden: Golden) -> None:
    tables = golden("sincos.pt")
    cfg = tables["cfg"]
    stretched = {name: found for name in tables if (found := re.fullmatch(r"ft(\d+)(?:_(\d+))?", name))}
    assert stretched
    for name, found in stretched.items():
        table = finetune_table(
            frames=int(found[1]),
            side=int(found[2] or cfg["base_side"]),
            patch=cfg["patch"],
            width=tables[name].shape[-1],
            base_frames=cfg["base_frames"],
            base_side=cfg["base_side"],
        )
        torch.testing.assert_close(table[None], tables[name], **TABLES)


def kept_tokens(mask: Tensor) -> Tensor:
    """bool [B,N], True where a token is hidden, to the sorted kept indices i64 [B,V]."""
    everywhere = torch.arange(mask.shape[1]).expand_as(mask)
    return everywhere[~mask].view(len(mask), -1)


def student_of(cfg: dict[str, Any]) -> AlignmentModel:
    size = VitSize(
        width=cfg["encoder_embed_dim"],
        depth=cfg["encoder_depth"],
        heads=cfg["encoder_num_heads"],
        patch=cfg["patch_size"],
        mlp_ratio=cfg["mlp_ratio"],
    )
    return AlignmentModel(
        VideoViT(size),
        out_width=cfg["clip_output_dim"],
        layers=cfg["clip_return_layer"],
        interval=cfg["clip_student_return_interval"],
        norm=cfg["clip_norm_type"],
    )


def test_student_features_loss_and_gradients_are_the_published_ones(golden: Golden) -> None:
    file = golden("stage1_student.pt")
    model = student_of(file["cfg"])
    load_strict(model, student_state(file["state"]), where="stage1_student.pt")
    keep = kept_tokens(file["mask"])

    encoded = model.encode(file["x"], keep)
    torch.testing.assert_close(encoded.tokens, file["enc_last"], **OUTPUTS)
    torch.testing.assert_close(torch.stack(encoded.taps), file["enc_layers"], **OUTPUTS)

    features = model(file["x"], keep)
    torch.testing.assert_close(features, file["out"], **OUTPUTS)

    loss = alignment_loss(features, file["target"], kind="l2")
    torch.testing.assert_close(loss, file["loss"], **OUTPUTS)

    layer_by_layer = model.distance(encoded, file["x"], keep, tuple(file["target"]))
    torch.testing.assert_close(layer_by_layer, file["loss"], **OUTPUTS)

    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert gradients.keys() == file["grads"].keys()
    for name, gradient in file["grads"].items():
        within = 1e-4 * gradient.abs().max().item()
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=within, msg=lambda m, n=name: f"{n}: {m}")


def test_teacher_targets_and_attention_are_the_published_ones(golden: Golden) -> None:
    file = golden("stage1_teacher.pt")
    cfg = file["cfg"]
    teacher = build_teacher(
        {
            "embed_dim": cfg["output_dim"],
            "quick_gelu": True,
            "vision_cfg": {
                "image_size": cfg["input_resolution"],
                "patch_size": cfg["patch_size"],
                "width": cfg["width"],
                "layers": cfg["layers"],
                "head_width": cfg["width"] // cfg["heads"],
            },
        },
        layers=cfg["clip_return_layer"],
        state=teacher_state(file["state"]),
    )
    clips, tokens = file["feat"].shape[1:3]
    everything = torch.arange(tokens).expand(clips, -1)

    seen = teacher.attend(file["x"])

    assert seen.attention is not None
    torch.testing.assert_close(seen.attention.flatten(0, 1), file["attn"], **OUTPUTS)
    for equal_frames in (False, True):
        targets = seen.targets(everything, equal_frames=equal_frames)
        torch.testing.assert_close(targets, file["feat"], **OUTPUTS)


def test_semantic_masks_keep_each_patch_as_often_as_the_published_multinomial(golden: Golden) -> None:
    file = golden("mask_marginals.pt")
    attention, visible, draws = file["attn"], int(file["n_visible"]), file["cfg"]["draws"]
    ours = 10 * draws  # our own chance error is then small beside the file's
    noise = uniform(0, 0, torch.arange(ours), attention.shape[-1], Purpose.MASK)[:, None]

    keep = keep_highest(attention.expand(ours, 1, -1), visible=visible, noise=noise)

    frequency = torch.bincount(keep.flatten(), minlength=attention.shape[-1]) / ours
    spread = (frequency * (1 - frequency)).sqrt() * math.sqrt(1 / draws + 1 / ours)
    assert ((frequency - file["freq"]).abs() <= 4 * spread + 1 / draws).all()


@pytest.mark.parametrize(
    ("file", "student", "teacher"), [("base", "vit_b16", "clip_b16"), ("large", "vit_l16", "clip_l14")]
)
def test_state_dicts_have_the_published_keys_and_shapes(
    published_keys: Keys, file: str, student: Any, teacher: str
) -> None:
    name = f"keys_stage1_{file}.txt"
    expected = published_keys(name, part="student")
    with torch.device("meta"):
        model = AlignmentModel(VideoViT(vit_size(student)), out_width=expected["clip_decoder.0.norm.weight"][0])
        tower = build_teacher(teacher).tower.visual
        listed = {key: torch.empty(shape) for key, shape in published_keys(name, part="teacher").items()}

    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == expected
    translated = {key: tuple(value.shape) for key, value in teacher_state(listed).items()}
    assert {key: tuple(value.shape) for key, value in tower.state_dict().items()} == translated
