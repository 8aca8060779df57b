"""What a task costs by its shapes: parameters, arithmetic, memory. On torch's meta device: no weights, no pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import nn

from umt_ds.batch import Media
from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.schema import ImageTextConfig, Stage1Config, Stage2Config, TaskConfig
from umt_ds.engine.memory import ELEMENT
from umt_ds.masking import MaskPlan
from umt_ds.models.flops import student_flops_per_clip, teacher_flops_per_clip
from umt_ds.models.memory import block_bytes, student_bytes_per_clip, teacher_bytes_per_clip
from umt_ds.models.presets import VitSize, vit_size
from umt_ds.models.teachers import build_teacher
from umt_ds.models.vit import VideoViT
from umt_ds.tasks.stage1.task import Stage1Module, common_grid, stage1_flops

ONLY_VIDEO: Mapping[Media, float] = {"video": 1.0}


@dataclass(frozen=True)
class TaskCost:
    """FLOPs (a multiply-add counts as two) and bytes are of one view: an augmented clip or image."""

    sentence: str  # what the numbers below are about
    parameters: int  # trained
    teacher_parameters: int
    forward_flops: float  # of what is trained
    student_flops: float  # forward and backward
    teacher_flops: float
    # the same as published: every patch is embedded, the teacher's last block and projections run on every token
    published_student_flops: float
    published_teacher_flops: float
    pixel_bytes: int  # uint8, as they travel to the device
    activation_bytes: float  # kept for the backward
    teacher_bytes: float  # at its largest

    @property
    def flops(self) -> float:
        """What a run counts for its MFU."""
        return self.student_flops + self.teacher_flops

    @property
    def published_flops(self) -> float:
        return self.published_student_flops + self.published_teacher_flops


def task_cost(task: TaskConfig, precision: Precision, *, shares: Mapping[Media, float] = ONLY_VIDEO) -> TaskCost:
    """shares: of all views, that each medium has; stage 2 alone asks. Memory is of the heavier medium.

    Raises ConfigError where student and teacher do not fit each other.
    """
    match task:
        case Stage2Config():
            return _stage2_cost(task, ELEMENT[precision], shares)
        case Stage1Config():
            return _stage1_cost(task, ELEMENT[precision])
        case ImageTextConfig():
            return _image_text_cost(task, ELEMENT[precision])
        case _:
            assert_never(task)


def _stage1_cost(task: Stage1Config, element: int) -> TaskCost:
    settings, frames = task.teacher, task.student.frames
    size = vit_size(task.student.preset)
    with torch.device("meta"):
        teacher = build_teacher(
            settings.preset if settings.tower is None else settings.tower.open_clip_config(),
            layers=settings.layers,
            interval=settings.interval,
            image_size=settings.image_size,
        )
        module = Stage1Module(VideoViT(size), teacher=teacher, loss=task.loss, settings=settings)
    rows, cols = common_grid(task.student.image_size, size.patch, teacher)
    patches = rows * cols
    mask, views = MaskPlan(task.mask.kind, task.mask.ratio), task.mask.views
    visible = mask.visible(frames, patches)
    aligned = {"layers": settings.layers, "out_width": teacher.out_width}
    looked = {"frames": frames, "patches": patches, "prefix_tokens": teacher.tower.prefix_tokens}
    student = student_flops_per_clip(size, visible=visible, **aligned)
    published = student_flops_per_clip(size, visible=visible, embedded=frames * patches, **aligned)
    student_flops, teacher_flops = stage1_flops(task, teacher)
    return TaskCost(
        sentence=f"student {task.student.preset}, teacher {settings.preset}; {frames} frames of "
        f"{task.student.image_size} px, {visible} of {frames * patches} tokens visible ({mask.kind})"
        + (f", {views} masks of each clip" if views > 1 else ""),
        parameters=_count(module),
        teacher_parameters=_count(teacher),
        forward_flops=views * student.forward,
        student_flops=student_flops,
        teacher_flops=teacher_flops,
        published_student_flops=views * published.forward_backward,
        published_teacher_flops=teacher_flops_per_clip(teacher.size, **aligned, **looked).forward,
        pixel_bytes=frames * task.student.image_size**2 * 3,
        activation_bytes=views
        * student_bytes_per_clip(
            size, visible=visible, element=element, checkpoint_blocks=task.student.checkpoint_blocks, **aligned
        ),
        teacher_bytes=teacher_bytes_per_clip(teacher.size, layers=settings.layers, element=element, **looked),
    )


def _stage2_cost(task: Stage2Config, element: int, shares: Mapping[Media, float]) -> TaskCost:
    from umt_ds.tasks.stage2.cost import Stage2Cost, on_meta  # loads transformers

    module, teacher = on_meta(task)
    cost = Stage2Cost(task, teacher)
    student, published = task.student, [cost.published_flops(medium) for medium in shares]
    ours, parts = [cost.flops(medium) for medium in shares], list(shares.values())

    def mean(numbers: Iterable[float]) -> float:
        return sum(part * number for part, number in zip(parts, numbers, strict=True))

    def of(medium: Media) -> str:
        frames, side = cost.frames(medium), student.image_size
        tokens = frames * (side // vit_size(student.preset).patch) ** 2
        return f"{shares[medium]:.0%} {medium}s, {frames} frame(s), {cost.visible(medium)} of {tokens} tokens visible"

    return TaskCost(
        sentence=f"{student.preset}, {student.image_size} px, BERT {task.text.preset}: {'; '.join(map(of, shares))}",
        parameters=_count(module),
        teacher_parameters=0 if teacher is None else _count(teacher),
        forward_flops=mean(cost.forward_flops(medium) for medium in shares),
        student_flops=mean(own for own, _ in ours),
        teacher_flops=mean(its for _, its in ours),
        published_student_flops=mean(own for own, _ in published),
        published_teacher_flops=mean(its for _, its in published),
        pixel_bytes=max(cost.frames(medium) for medium in shares) * student.image_size**2 * 3,
        activation_bytes=max(cost.activation_bytes(medium, element=element) for medium in shares),
        teacher_bytes=max(cost.teacher_bytes(medium, element=element) for medium in shares),
    )


def _image_text_cost(task: ImageTextConfig, element: int) -> TaskCost:
    """The text tower's arithmetic is left out, as in the log of a run."""
    from umt_ds.tasks.image_text.task import ImageTextTask  # loads open_clip

    tower, text = task.tower, task.text
    with torch.device("meta"):
        own = ImageTextTask(task, seed=0, device=torch.device("meta"))
    image_size = VitSize(width=tower.width, depth=tower.layers, heads=tower.heads, patch=tower.patch_size)
    text_size = VitSize(width=text.width, depth=text.layers, heads=text.heads, patch=1)
    patches = (tower.image_size // tower.patch_size) ** 2
    forward = teacher_flops_per_clip(image_size, frames=1, patches=patches, layers=1, out_width=tower.out_width)
    return TaskCost(
        sentence=f"image tower of {tower.layers} blocks, width {tower.width}; {tower.image_size} px, with text",
        parameters=_count(own.module),
        teacher_parameters=0,
        forward_flops=forward.forward,
        student_flops=own.flops_per_view,
        teacher_flops=0.0,
        published_student_flops=own.flops_per_view,
        published_teacher_flops=0.0,
        pixel_bytes=tower.image_size**2 * 3,
        activation_bytes=tower.layers * block_bytes(image_size, patches + 1, element=element)
        + text.layers * block_bytes(text_size, text.context_length, element=element),
        teacher_bytes=0.0,
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
