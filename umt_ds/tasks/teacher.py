"""The frozen teacher of a run: built as its settings mean, with the weights of its file, on the device of the run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.models import TeacherConfig
from umt_ds.errors import ConfigError, of_setting
from umt_ds.kernels.fp8 import why_no_fp8
from umt_ds.models.flops import teacher_flops_per_clip
from umt_ds.models.layers import PixelStatistics
from umt_ds.models.teachers import Teacher, build_teacher, is_timms
from umt_ds.models.towers import ClipTower
from umt_ds.tasks.initial import read_weights, state_fingerprint
from umt_ds.weights.clip_folder import differences
from umt_ds.weights.folder_pixels import pixels_of_folder
from umt_ds.weights.load import about
from umt_ds.weights.names import some
from umt_ds.weights.published import teacher_state
from umt_ds.weights.timm_towers import timm_state

log = logging.getLogger("umt_ds")

# The dtype a frozen model runs in; the student's is DeepSpeed's business.
COMPUTE_DTYPE: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def load_teacher(config: TeacherConfig) -> tuple[Teacher, str]:
    """The teacher and a fingerprint of its weights. Raises WeightsError where file and model do not fit."""
    state, own_pixels = None, None
    with about(config.weights):
        if config.weights == "random":
            log.info("the teacher has random weights (task.teacher.weights=random): for trying things out")
        else:
            assert not isinstance(config.weights, str)
            with of_setting("task.teacher"):
                translate = timm_state if is_timms(_model(config)) else teacher_state
            state = translate(read_weights(config.weights))
            own_pixels = pixels_of_folder(Path(config.weights)) if config.pixels == "own" else None
        teacher = teacher_of(config, state, own_pixels)
        if state is not None:
            _warn_of_differences(teacher, Path(config.weights))
        if left_out := teacher.tower.left_out:
            log.info("of %s, %d tensors are no part of the teacher: %s", config.weights, len(left_out), some(left_out))
    log.info("teacher: %s", teacher.summary)
    return teacher, state_fingerprint(teacher.state_dict())


def teacher_of(
    config: TeacherConfig, state: dict[str, Tensor] | None = None, own_pixels: PixelStatistics | None = None
) -> Teacher:
    """The teacher that the settings mean, with these weights, or with random ones. own_pixels: what the folder of the
    weights says. Raises ConfigError where there is no such teacher, WeightsError where the weights do not fit."""
    with of_setting("task.teacher"):
        return build_teacher(
            _model(config),
            layers=config.layers,
            interval=config.interval,
            norm=config.norm,
            pixels=config.pixels,
            features=config.features,
            image_size=config.image_size,
            state=state,
            own_pixels=own_pixels,
        )


def teacher_by_shape(config: TeacherConfig) -> Teacher:
    """The teacher for those who ask for its sizes alone, on torch's meta device. Which pixels are its own may stand
    beside weights that are not here, and counts for nothing. Raises as `teacher_of`."""
    with torch.device("meta"):
        return teacher_of(config.model_copy(update={"pixels": "imagenet"}))


def _model(config: TeacherConfig) -> str | dict[str, Any]:
    return config.preset if config.tower is None else config.tower.open_clip_config()


def _warn_of_differences(teacher: Teacher, weights: Path) -> None:
    """Where weights fit and yet are those of another model."""
    tower = teacher.tower
    if not isinstance(tower, ClipTower):
        return
    if other := differences(weights, quick_gelu=tower.blocks[0].quick_gelu, heads=tower.size.heads):
        log.warning(
            "the teacher of %s is run as another model than its folder describes: %s (task.teacher.preset: of "
            "open_clip's models, ViT-B-16 has GELU, ViT-B-16-quickgelu has OpenAI's QuickGELU)",
            weights,
            other,
        )


def place_teacher(teacher: Teacher, config: TeacherConfig, *, device: torch.device, precision: Precision) -> None:
    """Onto the device of the run, in its precision or in FP8; where that does not run or pay, the log says why.

    Raises ConfigError for a tower that has no FP8.
    """
    dtype = COMPUTE_DTYPE[precision]
    teacher.to(device, dtype)
    if config.precision != "fp8":
        return
    if (reason := why_no_fp8(device, dtype)) is not None:
        log.warning("the teacher stays %s: task.teacher.precision=fp8, but %s", dtype, reason)
        return
    refuse_no_fp8(teacher)
    teacher.quantise()
    log.info("the teacher multiplies in FP8; `umt bench fp8` tells what that changes")


def forward_flops(teacher: Teacher, *, frames: int, kept: int | None) -> float:
    """Operations of the teacher on a clip. kept: tokens of a frame that its features are asked for, where all frames
    keep as many; None counts the last block for all tokens."""
    tower = teacher.tower
    return teacher_flops_per_clip(
        teacher.size,
        frames=frames,
        patches=tower.patches,
        layers=len(teacher.taps),
        out_width=tower.projected_width,
        kept=kept if tower.is_lean else None,
        prefix_tokens=tower.prefix_tokens,
        is_pooled=tower.map_source == "pooling head",
    ).forward


def refuse_no_fp8(teacher: Teacher) -> None:
    """Raises ConfigError for a tower that has no FP8."""
    if not isinstance(teacher.tower, ClipTower):
        raise ConfigError(
            f"task.teacher.precision=fp8, but teacher {teacher.tower.name} has no products in FP8",
            hint="task.teacher.precision=run, or a CLIP teacher",
        )


def common_grid(image_size: int, patch: int, teacher: Teacher) -> tuple[int, int]:
    """Patches per column and row, the same for student and teacher."""
    side = image_size // patch
    if teacher.grid != (side, side):
        wanted = teacher.size.patch * side
        raise ConfigError(
            f"student ({image_size} px, patch {patch}) and teacher (patch {teacher.size.patch}) see different grids: "
            f"{side} x {side} and {teacher.grid[0]} x {teacher.grid[1]}",
            hint=f"task.teacher.image_size={wanted} gives the teacher {side} x {side} patches",
        )
    return teacher.grid
