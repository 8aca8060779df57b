"""Models with odd sizes and drawn weights, as `umt export` opens them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from tests.support.recognition import a_set, run_on
from tests.support.tiny_runs import make_config
from tests.support.video_text_runs import Kind, video_text_run
from umt_ds.config.run import RunConfig
from umt_ds.exchange.source import Source, open_source
from umt_ds.jobs.eval_runs import EvalRun
from umt_ds.tasks.kinds import build_task


def opened(folder: Path, config: RunConfig) -> Source:
    """A run with drawn weights, which lie in FOLDER/odd.safetensors."""
    module = build_task(config, device=torch.device("cpu"), precision="fp32").module.eval()
    draw_weights(module)
    folder.mkdir(exist_ok=True)
    save_file(module.state_dict(), folder / "odd.safetensors")
    init = config.init.model_copy(update={"weights": folder / "odd.safetensors"})
    return open_source(EvalRun(config.name, config.model_copy(update={"init": init}), None))


def draw_weights(module: nn.Module) -> None:
    """No two parts alike, and a step from layer to layer that neither grows nor dies, in a model of any size: where
    softmax is saturated, rounding alone makes two models differ."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            elif name != "temp":
                parameter.add_(0.2 * noise)


def a_student(folder: Path, *overrides: str) -> Source:
    """Of stage 1: two frames of 16 pixels unless overrides say else."""
    return opened(folder, make_config(folder, *overrides))


def a_classifier(folder: Path, *overrides: str) -> Source:
    """Of three classes, on two frames of 16 pixels unless overrides say else."""
    clips = a_set(folder / "train")
    return opened(folder, run_on(clips, clips, *overrides))


def a_video_text_model(folder: Path, kind: Kind = "retrieval", *overrides: str) -> Source:
    """Of 3 frames of 20 pixels, 9 tokens."""
    return opened(folder, video_text_run(folder, kind, *overrides))
