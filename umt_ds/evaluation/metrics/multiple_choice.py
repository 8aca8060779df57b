"""Which of a few captions fits a video. Pure functions of tensors.

Source: METHOD.md, "Multiple choice". Shapes: Q questions (a video each), C captions to choose from.
"""

from __future__ import annotations

from torch import Tensor

MATCH_WEIGHT, SIMILARITY_WEIGHT = 0.7, 0.3


def choice_scores(similarity: Tensor, match: Tensor, *, temperature: Tensor | float) -> Tensor:
    """How well each caption fits: probability that it matches, and its part of the similarities, .7 to .3: f32 [Q,C].

    similarity: any float [Q,C], not yet divided by the temperature (the trained one). match: logits [Q,C,2] of the
    matching head, class 1: they match.
    """
    matches = match.float().softmax(dim=-1)[..., 1]
    nearest = (similarity.float() / temperature).softmax(dim=-1)
    return MATCH_WEIGHT * matches + SIMILARITY_WEIGHT * nearest


def choice_accuracy(scores: Tensor, answers: Tensor) -> float:
    """Share of the questions whose right caption has a score above that of every other: f32 [Q,C] and i64 [Q].

    A caption that only equals the best is not found, nor is one among scores that are not numbers: a model that finds
    all captions alike, or has gone to NaN, chooses nothing.
    """
    right = scores.gather(1, answers[:, None])
    below = (scores < right).sum(dim=1)
    return (below == scores.shape[1] - 1).double().mean().item()
