"""Question answering: how unlikely an answer is, token by token, and the mean over questions.

Shapes: R answers, L tokens of an answer ([CLS], word pieces, [SEP], padding), V words.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def answer_losses(logits: Tensor, ids: Tensor, is_token: Tensor) -> Tensor:
    """Cross-entropy of each token of an answer given those before it, summed over the answer: f32 [R].

    logits: [R,L-1,V], any float, at places 0 to L-2: place l tells token l+1. ids: i64 [R,L]. is_token: bool [R,L],
    False where padded. The first token, [CLS], is given and not told. Source: METHOD.md, "Question answering".
    """
    each = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (each.view(len(ids), -1) * is_token[:, 1:]).sum(dim=1)


def weighted_answer_loss(losses: Tensor, weights: Tensor, *, questions: int) -> Tensor:
    """The losses of all answers times their weights, divided by the number of questions: f32 scalar.

    losses: f32 [R], of all answers to all questions. weights: f32 [R]; published: how many of a question's answers are
    this one, as a part of 1. Source: METHOD.md, "Question answering".
    """
    return (losses * weights).sum() / questions
