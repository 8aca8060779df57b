"""Run folders of stage 1 as a training leaves them, of the smallest models, and without training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.config.show import as_tree, as_yaml
from umt_ds.config.tasks.stage1 import Stage1Config
from umt_ds.engine.manifest import CheckpointManifest
from umt_ds.tasks.stage1.task import Stage1Task


def make_config(folder: Path, *overrides: str) -> RunConfig:
    """demo/stage1 with the smallest models: FOLDER/run, trained on FOLDER/train; without evaluations, or with those
    that overrides name alone."""
    is_judged = any(override.startswith("evaluation.") for override in overrides)
    tower = "{image_size: 16, patch_size: 8, width: 32, layers: 2, heads: 2, out_width: 16}"
    config = load_run(
        "demo/stage1",
        (
            f"run_dir={folder / 'run'}",
            "task.student.preset=pocket",
            "task.student.image_size=16",
            "task.student.frames=2",
            f"task.teacher.tower={tower}",
            "task.teacher.weights=random",
            "task.teacher.layers=2",
            "task.mask.ratio=0.5",
            f"data.sources.demo.shards={folder / 'train'}",
            *(["evaluation=null"] if is_judged else []),
            *overrides,
        ),
    )
    return config if is_judged else config.model_copy(update={"evaluation": {}})


def write_run(config: RunConfig) -> Path:
    """The run folder, with its settings."""
    config.folder.mkdir(parents=True)
    (config.folder / "config.yaml").write_text(as_yaml(as_tree(config)))
    return config.folder


def add_checkpoint(
    run: Path,
    config: RunConfig,
    *,
    step: int = 6,
    weights: Mapping[str, Tensor] | None = None,
    classes: Sequence[str] = (),
    fingerprints: Mapping[str, str] | None = None,
) -> Path:
    """A checkpoint of a step in the folder `run`, with these weights, or with the student of a stage-1 run as it began;
    where the run averages its weights, the average is twice that. classes: of a classifier's head.
    fingerprints: of what it depended on."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    if weights is None:
        assert isinstance(config.task, Stage1Config)
        weights = _first_weights(config.task, config.seed)
    save_file(dict(weights), folder / "weight-00000.safetensors")
    if config.optim.ema_decay is not None:
        save_file({name: tensor * 2 for name, tensor in weights.items()}, folder / "ema-00000.safetensors")
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.iterdir())
    }
    manifest = CheckpointManifest(
        step=step, progress={"step": step}, config=as_tree(config), numbers_hash="numb", running_hash="runn",
        fingerprints=dict(fingerprints or {"teacher": "tttt"}), files=files, world=2, zero_stage=1, precision="fp32",
        versions={"torch": "9.9"}, classes=list(classes), written="2024-01-01T00:00:00+00:00",
    )  # fmt: skip
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder


@cache
def _first_weights(task: Stage1Config, seed: int) -> dict[str, Tensor]:
    return Stage1Task(task, seed=seed, device=torch.device("cpu"), precision="fp32").module.state_dict()
