"""Similarities weighed by how sought after each video and each text is. No published UMT score uses it.

Source: METHOD.md, "Retrieval". Shapes: V videos, T texts.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from umt_ds.evaluation.metrics.retrieval import RetrievalScores, retrieval_scores

TEMPERATURES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # that a search tries


def dual_softmax(similar: Tensor, *, temperature: float) -> Tensor:
    """log of P(video | text) · P(text | video), softmaxes of similarity / temperature: f32 [V,T] to f32 [V,T].

    A video that every text finds similar counts for less with each. Both need all queries of the test set at once, so a
    score by it says nothing of a single query.
    """
    scaled = similar / temperature
    of_texts, of_videos = scaled.logsumexp(dim=0, keepdim=True), scaled.logsumexp(dim=1, keepdim=True)
    return scaled.mul_(2).sub_(of_texts).sub_(of_videos)


def judge_dual_softmax(
    similar: Tensor, right: Tensor, temperature: float | Literal["search"]
) -> tuple[float, RetrievalScores]:
    """The scores at a temperature; search: at the one of the grid with the best mean on this very set, the first of
    equals. similar: f32 [V,T]; right: bool [V,T]."""
    tried = TEMPERATURES if temperature == "search" else (temperature,)
    found = [(one, retrieval_scores(dual_softmax(similar, temperature=one), right)) for one in tried]
    return max(found, key=lambda one: one[1].mean)
