"""Video-text matching: a classifier tells true pairs of video and text from pairs with a negative video or text.

Shapes: B rows of this rank, G rows to draw from (those of this rank, or of all), K pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def draw_negatives(similarity: Tensor, same: Tensor, noise: Tensor, *, hard: bool) -> tuple[Tensor, Tensor]:
    """For each row one of G that does not match it: i64 [B], and bool [B], False where all match.

    similarity: f32 [B,G], divided by the temperature. same: bool [B,G], pairs that match. noise: uniform f32 [B,G].
    hard: drawn in proportion to softmax(similarity) over the others; else evenly. The largest of similarity plus Gumbel
    noise is such a draw, and needs no softmax whose weights could all be rounded to 0.

    Source: METHOD.md, "VTM" (there: multinomial).
    """
    gumbel = -torch.log(-torch.log(noise))
    scores = similarity.detach().float() + gumbel if hard else gumbel
    return scores.masked_fill(same, -torch.inf).argmax(dim=1), ~same.all(dim=1)


def matching_loss(logits: Tensor, *, is_match: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy of two classes, summed over the pairs that count: fp32 scalar. Divide by their number for the mean.

    logits: [K,2], any float; class 1 is a match. is_match, counts: bool [K]. Source: METHOD.md, "VTM".
    """
    each = F.cross_entropy(logits.float(), is_match.long(), reduction="none")
    return (each * counts).sum()
