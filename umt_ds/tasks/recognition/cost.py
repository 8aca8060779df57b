"""What recognition costs by its shapes."""

from __future__ import annotations

import torch

from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.models.memory import student_bytes_per_clip
from umt_ds.tasks.cost import TaskCost, count_parameters
from umt_ds.tasks.encoders import size_of
from umt_ds.tasks.recognition.task import module_of, recognition_flops

_FP32 = 4


def recognition_cost(task: RecognitionConfig, classes: int, element: int) -> TaskCost:
    """element: bytes of a number."""
    encoder, size = task.encoder, size_of(task.encoder)
    with torch.device("meta"):
        module = module_of(task, classes)
    tokens = encoder.frames * (encoder.image_size // size.patch) ** 2
    flops = recognition_flops(task, classes)
    pixels = encoder.frames * encoder.image_size**2 * 3
    float_bytes = pixels * _FP32 if task.changes_pixels else 0
    return TaskCost(
        sentence=f"encoder {encoder.preset}, {classes} classes; {encoder.frames} frames of {encoder.image_size} px, "
        f"all {tokens} tokens",
        parameters=count_parameters(module),
        teacher_parameters=0,
        forward_flops=flops.forward,
        student_flops=flops.forward_backward,
        teacher_flops=0.0,
        published_student_flops=flops.forward_backward,
        published_teacher_flops=0.0,
        pixel_bytes=pixels,
        activation_bytes=float_bytes
        + student_bytes_per_clip(
            size, visible=tokens, element=element, checkpoint_blocks=encoder.checkpoint_blocks, layers=0, out_width=0
        ),
        teacher_bytes=0.0,
        evaluation_flops=flops.forward,
    )
