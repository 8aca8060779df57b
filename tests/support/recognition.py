"""Runs of recognition on tiny sets: grey clips, and a classifier that tells them apart by how bright they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.support.shards import picture, write_shards
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.tasks.kinds import build_task
from umt_ds.tasks.recognition.task import RecognitionModule

NAMES = ("archery", "biking", "crying")


def labelled(label: Callable[[int], int | None] = lambda n: n % 3) -> Callable[[int], Mapping[str, bytes]]:
    """Noise around a grey level, with a label or with none."""

    def members(number: int) -> Mapping[str, bytes]:
        noise = np.random.default_rng(number).integers(0, 60, (7, 20, 28, 3)) + 19 * (number * 7 % 10)
        frames = {f"{place:03d}.png": picture(one.astype(np.uint8)) for place, one in enumerate(noise)}
        return {**frames, "json": json.dumps({"label": label(number)}).encode()}

    return members


def a_set(folder: Path, *, names: tuple[str, ...] = NAMES, count: int = 5, first: int = 0, **members: Any) -> Path:
    """Clips under a class list. members: of `labelled`."""
    manifest = load_manifest(write_shards(folder, [count], members=labelled(**members), first=first))
    replace(manifest, labels=names).save(folder)
    return folder


def run_on(train: Path, val: Path, *overrides: str) -> RunConfig:
    """demo/recognition at 16 px in two frames."""
    words = [
        f"data.sources.demo.shards={train}", "data.workers=0", "task.label=label", "init.weights=null",
        "task.encoder.frames=2", "task.encoder.image_size=16", "evaluation=null",
        "evaluation.val.kind=classification", f"evaluation.val.shards={val}", *overrides,
    ]  # fmt: skip
    return load_run("demo/recognition", words)


def module_of(run: RunConfig) -> RecognitionModule:
    """With a head that tells clips apart by how bright they are."""
    module = build_task(run, device=torch.device("cpu"), precision="fp32").module.eval()
    assert isinstance(module, RecognitionModule)
    with torch.no_grad():
        levels = torch.linspace(20, 220, len(module.head.bias)).tolist()
        grey = [torch.full((1, 2, 16, 16, 3), int(level), dtype=torch.uint8) for level in levels]
        near = torch.cat([module.features(clip) for clip in grey])  # [C,D]
        module.head.weight.copy_(near / 50)
        module.head.bias.copy_(-near.square().sum(dim=1) / 100)  # so that the nearest of them wins
    return module
