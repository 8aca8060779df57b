"""The twin that `umt bench step` measures against is the published step: its modules give the published numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from umt_ds.bench.plain_models import PlainStudent, PlainTeacher
from umt_ds.bench.plain_recognition import PlainClassifier
from umt_ds.bench.plain_stage2 import Drawn, PlainBert, PlainVideoText, PlainVision, Rows
from umt_ds.models.positions import finetune_table
from umt_ds.models.presets import BertSize, VitSize
from umt_ds.weights.published import video_text_state

Golden = Callable[[str], Any]
OUTPUTS = {"rtol": 0, "atol": 1e-5}


def test_student_loss_and_gradients(golden: Golden) -> None:
    file = golden("stage1_student.pt")
    cfg = file["cfg"]
    size = VitSize(
        width=cfg["encoder_embed_dim"],
        depth=cfg["encoder_depth"],
        heads=cfg["encoder_num_heads"],
        patch=cfg["patch_size"],
        mlp_ratio=cfg["mlp_ratio"],
    )
    student = PlainStudent(
        size,
        tokens=file["mask"].shape[1],
        out_width=cfg["clip_output_dim"],
        layers=cfg["clip_return_layer"],
        interval=cfg["clip_student_return_interval"],
    )
    student.load_state_dict(file["state"])

    out = student(file["x"], file["mask"])
    loss = (2 - 2 * (out * file["target"]).sum(dim=-1)).mean()
    loss.backward()

    torch.testing.assert_close(out, file["out"], **OUTPUTS)
    torch.testing.assert_close(loss, file["loss"], **OUTPUTS)
    for name, parameter in student.named_parameters():
        within = 1e-4 * file["grads"][name].abs().max().item()
        torch.testing.assert_close(parameter.grad, file["grads"][name], rtol=0, atol=within)


def test_teacher_features_and_attention(golden: Golden) -> None:
    file = golden("stage1_teacher.pt")
    cfg = file["cfg"]
    teacher = PlainTeacher(
        VitSize(width=cfg["width"], depth=cfg["layers"], heads=cfg["heads"], patch=cfg["patch_size"]),
        image_size=cfg["input_resolution"],
        out_width=cfg["output_dim"],
        layers=cfg["clip_return_layer"],
    )
    teacher.load_state_dict(file["state"])

    features, attention = teacher(file["x"])

    torch.testing.assert_close(features, file["feat"], **OUTPUTS)
    torch.testing.assert_close(attention, file["attn"], **OUTPUTS)


@pytest.mark.parametrize("medium", ["video", "image"])
def test_the_losses_of_stage_2(golden: Golden, medium: str) -> None:
    file = golden("stage2_umt.pt")
    ve, bert, part = file["cfg"]["ve"], file["cfg"]["bert"], file[medium]
    size = VitSize(ve["encoder_embed_dim"], ve["encoder_depth"], ve["encoder_num_heads"], ve["patch_size"])
    vision = PlainVision(
        size, tokens=file["video"]["mask"].shape[1], out_width=ve["clip_output_dim"], layers=ve["clip_return_layer"]
    )
    sizes = BertSize(
        width=bert["hidden_size"],
        layers=bert["num_hidden_layers"],
        heads=bert["num_attention_heads"],
        hidden=bert["intermediate_size"],
        vocab_size=bert["vocab_size"],
    )
    layers = bert["num_hidden_layers"] - bert["fusion_layer"]
    text = PlainBert(sizes, fusion_layers=layers, video_width=size.width, dropout=0.0)
    model = PlainVideoText(vision, text, text_width=sizes.width, embed_width=file["cfg"]["embed_dim"])
    model.load_state_dict(video_text_state(file["state"]))

    mask = part["mask"]
    targets = part["clip_vis"]
    unit = targets / targets.norm(dim=-1, keepdim=True)
    features = unit.new_zeros(*unit.shape[:2], mask.shape[1], unit.shape[-1])
    features[:, ~mask] = unit.flatten(1, 2)  # the others are not looked at
    rows = Rows(part["img"].transpose(1, 2), file["input_ids"], file["attention_mask"].bool(), part["idx"])
    false = (part["vtm_negative_video"], part["vtm_negative_text"])
    loss = model(rows, features, Drawn(mask, part["mlm_ids"], part["mlm_labels"], false))

    expected = part["loss_uta"] + part["loss_vtc"] + part["loss_vtm_seed7"] + part["mlm_loss_fixed"]
    torch.testing.assert_close(loss, expected, rtol=0, atol=2e-5)  # a sum of four numbers to 1e-5


@pytest.mark.parametrize("name", ["finetune_T8.pt", "finetune_T16.pt"])
def test_the_logits_of_a_classifier(golden: Golden, name: str) -> None:
    file = golden(name)
    cfg, state = file["cfg"], {key: value for key, value in file["state"].items() if key != "pos_embed"}
    width, depth = state["fc_norm.weight"].numel(), 1 + max(int(k.split(".")[1]) for k in state if k[:7] == "blocks.")
    size = VitSize(width, depth, cfg["heads"], cfg["patch"], mlp_ratio=cfg["mlp_ratio"])
    table = finetune_table(cfg["frames"], cfg["side"], cfg["patch"], width)
    model = PlainClassifier(size, classes=file["y"].shape[1], table=table)
    model.load_state_dict(state)
    torch.testing.assert_close(model.eval()(file["x"].float()), file["y"], **OUTPUTS)
