"""What a task costs by its shapes: parameters, arithmetic, memory. On torch's meta device: no weights, no pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from umt_ds.batch import Media

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
    evaluation_flops: float  # of an evaluation's look at a clip: forward, nothing hidden; 0 where nothing judges it
    match_flops: float = 0.0  # of an evaluation's look at a clip and a text together, both encoded; 0: it has none
    assumptions: tuple[str, ...] = ()  # what these numbers take for granted

    @property
    def flops(self) -> float:
        """What a run counts for its MFU."""
        return self.student_flops + self.teacher_flops

    @property
    def published_flops(self) -> float:
        return self.published_student_flops + self.published_teacher_flops


def count_parameters(module: nn.Module) -> int:
    """Numbers in all parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
