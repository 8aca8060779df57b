"""Which pairs of video and text get a second, slower look, and what its scores find. Pure functions of tensors.

Source: METHOD.md, "Retrieval". Shapes: V videos, T texts, k candidates of each, M pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from umt_ds.evaluation.metrics.retrieval import RetrievalRanks, wrong_before

NOT_SCORED = -100.0  # what a pair gets that nobody looked at, as published
_ROWS = 256  # that are sorted at a time


@dataclass(frozen=True)
class Candidates:
    """texts: of each video the most similar, i64 [V,k]; videos: of each text the most similar, i64 [T,k]. k is smaller
    where there are fewer. pairs: all of these as video · T + text, i64 [M], ascending; each once, whoever wants it."""

    texts: Tensor
    videos: Tensor
    pairs: Tensor

    @cached_property
    def bounds(self) -> Tensor:
        """The pairs of video v are those from bounds[v] to bounds[v + 1]: i64 [V+1]."""
        return torch.searchsorted(self.pairs, torch.arange(len(self.texts) + 1) * len(self.videos))

    @cached_property
    def texts_of_pairs(self) -> Tensor:
        """i64 [M]."""
        return self.pairs % len(self.videos)


def candidates_of(similar: Tensor, *, k: int) -> Candidates:
    """similar: f32 [V,T]. Of equals those that stand first are taken; what is not a number counts as most similar."""
    num_texts = similar.shape[1]
    texts, videos = _most_similar(similar, k), _most_similar(similar.T, k)
    of_videos = torch.arange(len(texts))[:, None] * num_texts + texts
    of_texts = videos * num_texts + torch.arange(num_texts)[:, None]
    return Candidates(texts, videos, torch.unique(torch.cat([of_videos.flatten(), of_texts.flatten()])))


def _most_similar(similar: Tensor, k: int) -> Tensor:
    """Of each row [A,B] the best columns: i64 [A,k]. In parts: their places are twice as large as what is sorted."""
    parts = [rows.argsort(dim=1, descending=True, stable=True)[:, :k].clone() for rows in torch.split(similar, _ROWS)]
    return torch.cat(parts)


def scores_of_videos(candidates: Candidates, scores: Tensor) -> Tensor:
    """What each video looks through: f32 [M] of the pairs to f32 [V,T], with scores of its own candidates alone."""
    num_texts = len(candidates.videos)
    own = torch.arange(len(candidates.texts))[:, None] * num_texts + candidates.texts
    found = torch.full((len(candidates.texts), num_texts), NOT_SCORED)
    return found.scatter_(1, candidates.texts, scores[torch.searchsorted(candidates.pairs, own)])


def scores_of_texts(candidates: Candidates, scores: Tensor) -> Tensor:
    """What each text looks through: f32 [M] of the pairs to f32 [V,T], with scores of its own candidates alone."""
    num_texts = len(candidates.videos)
    own = candidates.videos * num_texts + torch.arange(num_texts)[:, None]
    found = torch.full((num_texts, len(candidates.texts)), NOT_SCORED)
    return found.scatter_(1, candidates.videos, scores[torch.searchsorted(candidates.pairs, own)]).T


def reranked(candidates: Candidates, scores: Tensor, right: Tensor) -> RetrievalRanks:
    """Ranks by the scores of the pairs, f32 [M]. right: bool [V,T]. Behind its candidates each query finds all others
    at once, the wrong ones first: an answer that is no candidate has the last rank."""
    return RetrievalRanks(
        wrong_before(scores_of_texts(candidates, scores), right, dim=0),
        wrong_before(scores_of_videos(candidates, scores), right, dim=1),
    )
