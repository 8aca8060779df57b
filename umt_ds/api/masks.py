"""What a mask leaves of a video, to look at: the attention of a run's frozen teacher, the patches that a mask keeps by
it, and the frames with all others dark.

Shapes: T frames, h x w patches of each, S = h·w, V kept patches of a video.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from umt_ds.api.devices import device_called
from umt_ds.api.videos import Array
from umt_ds.config.load import load_run
from umt_ds.config.models import TeacherConfig
from umt_ds.environment import at_home
from umt_ds.errors import ConfigError, DataError
from umt_ds.evaluation.masked import shade_removed, squares
from umt_ds.jobs.eval_runs import CONFIG
from umt_ds.masking import MaskKind, MaskPlan
from umt_ds.models.teachers import Teacher
from umt_ds.tasks.teacher import load_teacher

__all__ = ["FrozenTeacher", "keep_patches", "load_frozen_teacher", "shade", "spotlight"]


class FrozenTeacher:
    """The frozen teacher of a run, which `load_frozen_teacher` gives."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of a frame."""
        return self._teacher.grid

    def attention(self, frames: Array) -> Tensor:
        """How much its class token looks at each patch of frames u8 [T,H,W,3]: f32 [T,h,w], by which semantic masks are
        drawn. Frames of another size than its own are resized as in training. Raises ConfigError for a teacher without
        such attention."""
        if frames.ndim != 4 or frames.shape[-1] != 3:
            raise DataError(f"frames of shape {list(frames.shape)}", hint="uint8 [T,H,W,3]")
        pixels = torch.as_tensor(frames)[None].to(next(self._teacher.parameters()).device)
        attention = self._teacher.attend(pixels).attention
        if attention is None:
            raise ConfigError("this teacher has no class token, and so no attention to draw masks by")
        return attention[0].float().cpu().view(-1, *self.grid)


def load_frozen_teacher(run: str | os.PathLike[str], *, device: str | torch.device | None = None) -> FrozenTeacher:
    """The teacher of a run folder, a YAML file or a shipped run, with the weights that its settings name.

    Raises ConfigError for a run without one, WeightsError where its weights are not there or do not fit.
    """
    path = Path(at_home(os.fspath(run)))
    config = load_run(str(path / CONFIG if path.is_dir() else run))
    settings = next((one for one in config.task.required_weights.values() if isinstance(one, TeacherConfig)), None)
    if settings is None:
        raise ConfigError(f"run {config.name} has no frozen teacher", hint="a run of stage 1, or of stage 2 with one")
    teacher, _ = load_teacher(settings)
    return FrozenTeacher(teacher.to(device_called(device)))


def keep_patches(
    attention: Tensor, *, ratio: float = 0.8, kind: MaskKind = "semantic", seed: int = 0, step: int = 0
) -> Tensor:
    """The patches that a mask leaves, as training draws them: i64 [V], sorted; patch (t, y, x) is t·S + y·w + x.

    attention: f32 [T,h,w]; tubes and random masks read its shape alone. ratio: the share that is hidden. Raises
    ConfigError for a ratio outside [0, 1). Source: METHOD.md, "Masking".
    """
    frames, rows, cols = attention.shape
    plan = MaskPlan(kind, ratio)
    slots = torch.zeros(1, dtype=torch.int64)
    flat = attention.float().cpu().reshape(1, frames, rows * cols)
    return plan.keep(flat, seed=seed, step=step, slots=slots, frames=frames, patches=rows * cols)[0]


def shade(frames: Array, keep: Tensor, grid: tuple[int, int]) -> Tensor:
    """Kept patches as they are, all others dark and grey: frames u8 [T,H,W,3], keep i64 [V], grid (h, w) to u8
    [T,H,W,3]. Raises DataError for patches that the frames do not have."""
    pixels, patches = torch.as_tensor(frames), len(frames) * grid[0] * grid[1]
    if keep.numel() and not 0 <= int(keep.min()) <= int(keep.max()) < patches:
        raise DataError(
            f"patches {int(keep.min())} to {int(keep.max())} are kept, and {len(frames)} frames of "
            f"{grid[0]} x {grid[1]} have {patches}",
            hint="the frames and the grid that the mask was drawn for",
        )
    return shade_removed(pixels, keep.cpu(), (grid[0], grid[1]))


def spotlight(frames: Array, attention: Tensor) -> Tensor:
    """Frames that are as bright as their patches are looked at, the most of all at full light: u8 [T,H,W,3] and f32
    [T,h,w] to u8 [T,H,W,3]. Raises DataError where these are not of as many frames."""
    pixels = torch.as_tensor(frames)
    if attention.ndim != 3 or len(attention) != len(pixels):
        raise DataError(
            f"attention of shape {list(attention.shape)} is not that of {len(pixels)} frames", hint="[T,h,w]"
        )
    light = squares((attention / attention.max()).float().cpu(), like=pixels)[..., None]
    return (pixels * light).round().to(torch.uint8)
