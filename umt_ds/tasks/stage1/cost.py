"""What stage 1 costs by its shapes."""

from __future__ import annotations

import torch

from umt_ds.config.tasks.stage1 import Stage1Config
from umt_ds.masking import MaskPlan
from umt_ds.models.flops import student_flops_per_clip
from umt_ds.models.memory import student_bytes_per_clip, teacher_bytes_per_clip
from umt_ds.models.vit import VideoViT
from umt_ds.tasks.cost import TaskCost, count_parameters
from umt_ds.tasks.encoders import size_of
from umt_ds.tasks.stage1.task import Stage1Module, refuse_semantic_mask, stage1_flops
from umt_ds.tasks.teacher import common_grid, forward_flops, teacher_by_shape


def stage1_cost(task: Stage1Config, element: int) -> TaskCost:
    """Raises ConfigError where student and teacher do not fit each other. element: bytes of a number."""
    settings, frames = task.teacher, task.student.frames
    size = size_of(task.student)
    teacher = teacher_by_shape(settings)
    with torch.device("meta"):
        module = Stage1Module(VideoViT(size), teacher=teacher, loss=task.loss, settings=settings)
    refuse_semantic_mask(task, teacher)
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
        parameters=count_parameters(module),
        teacher_parameters=count_parameters(teacher),
        forward_flops=views * student.forward,
        student_flops=student_flops,
        teacher_flops=teacher_flops,
        published_student_flops=views * published.forward_backward,
        published_teacher_flops=forward_flops(teacher, frames=frames, kept=None),
        pixel_bytes=frames * task.student.image_size**2 * 3,
        activation_bytes=views
        * student_bytes_per_clip(
            size, visible=visible, element=element, checkpoint_blocks=task.student.checkpoint_blocks, **aligned
        ),
        teacher_bytes=teacher_bytes_per_clip(teacher.size, layers=settings.layers, element=element, **looked),
        evaluation_flops=student_flops_per_clip(size, visible=frames * patches, layers=0, out_width=0).forward,
    )
