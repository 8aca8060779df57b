"""The doors lead to the kernels: a whole student, mask and loss, once in torch and once in Triton."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from umt_ds.kernels import backend
from umt_ds.kernels.keep_tokens import keep_tokens
from umt_ds.kernels.launch import Launch
from umt_ds.models.alignment import AlignmentModel
from umt_ds.models.presets import VitSize
from umt_ds.models.vit import VideoViT


def loss_and_gradients(kernels: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Of two clips of 2 x 3 x 3 patches, five of each frame seen."""
    monkeypatch.setenv("UMT_KERNELS", kernels)
    backend._chosen.cache_clear()
    torch.manual_seed(0)
    model = AlignmentModel(VideoViT(VitSize(width=24, depth=2, heads=3, patch=8)), out_width=20, layers=2)
    pixels = torch.randint(0, 256, (2, 2, 24, 24, 3), dtype=torch.uint8)
    keep = keep_tokens(torch.rand(2, 2, 9), seed=1, step=2, slots=torch.arange(2), visible=5)
    targets = torch.randn(2, 2, 10, 20).unbind()
    loss = model.distance(model.encode(pixels, keep), pixels, keep, targets)
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return {"loss": loss.detach(), "keep": keep, **gradients}


def test_a_student_learns_the_same_in_triton_as_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []
    run = Launch.run

    def remember(launch: Launch) -> None:
        launched.append(launch.kernel.fn.__name__)
        run(launch)

    monkeypatch.setattr(Launch, "run", remember)
    in_torch = loss_and_gradients("torch", monkeypatch)
    assert launched == []
    in_triton = loss_and_gradients("triton", monkeypatch)
    assert launched == ["_keep", "_embed", "_rows", "_rows", "_scale", "_scale"]

    assert "encoder.patch_embed.proj.weight" in in_torch
    assert torch.equal(in_torch.pop("keep"), in_triton.pop("keep"))
    for name, expected in in_torch.items():
        torch.testing.assert_close(in_triton[name], expected, rtol=1e-4, atol=1e-6, msg=name)
