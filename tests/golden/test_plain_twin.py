"""The twin that `umt bench step` measures against is the published step: its modules give the published numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from umt_ds.bench.plain_models import PlainStudent, PlainTeacher
from umt_ds.models.presets import VitSize

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
