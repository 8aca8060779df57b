"""The loss of unmasked token alignment.

Shapes: K layers, B clips, V visible tokens, C width of the teacher's output.
"""

from __future__ import annotations

from typing import Literal, assert_never

import torch.nn.functional as F
from torch import Tensor

AlignmentLoss = Literal["l2", "mse", "smooth_l1"]


def alignment_loss(student: Tensor, target: Tensor, *, kind: AlignmentLoss = "l2") -> Tensor:
    """How far the student's visible tokens are from the teacher's: a scalar, computed in fp32.

    student, target: [K,B,V,C], any float; no gradient flows to the target. "l2": the mean over layers, clips
    and tokens of 2 - 2·cos, for unit vectors; "mse" and "smooth_l1": the mean over all elements.
    Raises ValueError where the shapes differ.

    Source: METHOD.md, "Alignment loss"; authors' engine_for_pretraining_umt.py:93.
    """
    if student.shape != target.shape:  # broadcasting would hide a wrong pairing
        raise ValueError(f"student {tuple(student.shape)} and target {tuple(target.shape)} differ in shape")
    student, target = student.float(), target.detach().float()
    match kind:
        case "l2":
            return (2 - 2 * (student * target).sum(dim=-1)).mean()
        case "mse":
            return F.mse_loss(student, target)
        case "smooth_l1":
            return F.smooth_l1_loss(student, target)
        case _:
            assert_never(kind)
