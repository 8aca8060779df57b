"""Video-text (or image-text) contrastive loss with several positives.

Shapes: B videos and B texts, C width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(visual: Tensor, text: Tensor, *, temperature: Tensor, same: Tensor) -> Tensor:
    """Symmetric cross-entropy between unit vectors, targets spread evenly over equal pairs. fp32 scalar.

    visual, text: [B,C], any float, unit length. temperature: [1]. same: bool [B,B], True where video i and
    text j belong together (the diagonal, and what else the caller counts). Source: METHOD.md, "VTC".
    """
    logits = visual.float() @ text.float().T / temperature.float()  # [B,B]
    targets = same.float() / same.float().sum(dim=1, keepdim=True)
    per_video = F.cross_entropy(logits, targets)
    per_text = F.cross_entropy(logits.T, targets)
    return (per_video + per_text) / 2
