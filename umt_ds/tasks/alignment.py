"""Unmasked token alignment, the objective that stages 1 and 2 share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from umt_ds.losses.alignment import AlignmentLoss, alignment_loss
from umt_ds.models.alignment import AlignmentModel, unit_length
from umt_ds.models.vit import Clips, VitOutput


def uta_loss(
    model: AlignmentModel, output: VitOutput, clips: Clips, targets: Sequence[Tensor], *, kind: AlignmentLoss
) -> Tensor:
    """How far a pass of the student over `clips` is from the teacher's K targets [B,V,C]: f32 scalar, the mean over
    clips and their masks."""
    if kind == "l2" and model.norm == "l2":
        return model.distance(output, clips.pixels, clips.keep, targets)  # no features of all layers at once
    stacked = torch.stack(list(targets))
    stacked = unit_length(stacked) if model.norm == "l2" else stacked
    return alignment_loss(model.decode(output, clips.pixels, clips.keep), stacked, kind=kind)
