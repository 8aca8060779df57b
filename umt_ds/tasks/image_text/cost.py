"""What the CLIP that teaches the demo costs by its shapes."""

from __future__ import annotations

import torch

from umt_ds.config.tasks.image_text import ImageTextConfig
from umt_ds.models.flops import teacher_flops_per_clip
from umt_ds.models.memory import block_bytes
from umt_ds.models.presets import VitSize
from umt_ds.tasks.cost import TaskCost, count_parameters
from umt_ds.tasks.image_text.task import ImageTextTask


def image_text_cost(task: ImageTextConfig, element: int) -> TaskCost:
    """The text tower's arithmetic is left out, as in the log of a run."""
    tower, text = task.tower, task.text
    with torch.device("meta"):
        own = ImageTextTask(task, seed=0, device=torch.device("meta"))
    image_size = VitSize(width=tower.width, depth=tower.layers, heads=tower.heads, patch=tower.patch_size)
    text_size = VitSize(width=text.width, depth=text.layers, heads=text.heads, patch=1)
    patches = (tower.image_size // tower.patch_size) ** 2
    forward = teacher_flops_per_clip(image_size, frames=1, patches=patches, layers=1, out_width=tower.out_width)
    return TaskCost(
        sentence=f"image tower of {tower.layers} blocks, width {tower.width}; {tower.image_size} px, with text",
        parameters=count_parameters(own.module),
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
        evaluation_flops=0.0,
    )
