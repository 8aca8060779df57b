"""What finds what: held-out videos and their captions, by the similarity of their embeddings. Nothing is trained.

A caption can be right for several videos, and a video have several captions. `right` says of all pairs which belong
together: bool [V,T], with a True in every row and column.

Shapes: V videos, P vectors of each, T captions of all videos together, C width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import NamedTuple

import torch
from torch import Tensor

RANKS = (1, 5, 10)
_VIDEOS = 256  # compared at a time: the products of their vectors are [256,P,T]


@dataclass(frozen=True)
class RetrievalResult:
    """Similarities of all videos and captions, f32 [V,T]. numbers: of the videos in their set. captions: T."""

    keys: tuple[str, ...]
    numbers: tuple[int, ...]
    captions: tuple[str, ...]
    right: Tensor
    similarity: Tensor


@dataclass(frozen=True)
class RetrievalScores:
    """Part of the queries whose answer is among the first 1, 5, 10: for each caption one of its videos, and for each
    video one of its captions. mean_ranks, median_ranks: of that answer, from 1, of captions and of videos. chance: R@1
    of captions in a random order of the videos."""

    text_to_video: dict[int, float]
    video_to_text: dict[int, float]
    mean_ranks: tuple[float, float]
    median_ranks: tuple[float, float]
    chance: float
    videos: int
    texts: int

    @property
    def mean(self) -> float:
        """Of all six numbers (`r_mean`; METHOD.md, "Retrieval")."""
        numbers = [*self.text_to_video.values(), *self.video_to_text.values()]
        return sum(numbers) / len(numbers)


def similarity(videos: Tensor, texts: Tensor) -> Tensor:
    """Products of unit vectors, the mean over the vectors of a video: f32 [V,P,C] and [T,C] to [V,T].

    Temperature 1. Source: METHOD.md, "Temperature and similarity", "Retrieval".
    """
    parts = [torch.einsum("vpc,tc->vpt", some, texts).mean(dim=1) for some in torch.split(videos, _VIDEOS)]
    return torch.cat(parts)


class RetrievalRanks(NamedTuple):
    """How many wrong ones come before the first right one. of_texts: i64 [T], videos before the first of a caption's
    own; of_videos: i64 [V], captions before the first of a video's own."""

    of_texts: Tensor
    of_videos: Tensor


def retrieval_ranks(similar: Tensor, right: Tensor) -> RetrievalRanks:
    """similar: f32 [V,T]; right: bool [V,T].

    Of equals, and of what is not a number, those that are wrong come first: a model that finds everything alike, or
    has gone to NaN, finds nothing. Source: METHOD.md, "Retrieval".
    """
    return RetrievalRanks(wrong_before(similar, right, dim=0), wrong_before(similar, right, dim=1))


def wrong_before(similar: Tensor, right: Tensor, *, dim: int) -> Tensor:
    """Along a dimension of f32 [V,T] how many wrong ones do not come behind the best right one; NaN is never less."""
    best = similar.masked_fill(~right, -torch.inf).max(dim=dim, keepdim=True).values
    return (~(similar < best) & ~right).sum(dim=dim)


def retrieval_scores(similar: Tensor, right: Tensor) -> RetrievalScores:
    """R@1, R@5 and R@10 both ways, and ranks. similar: f32 [V,T]; right: bool [V,T]."""
    return scores_of(retrieval_ranks(similar, right), right)


def scores_of(ranks: RetrievalRanks, right: Tensor) -> RetrievalScores:
    """The same of ranks that are known. right: bool [V,T]."""
    videos, texts = right.shape
    return RetrievalScores(
        text_to_video={k: (ranks.of_texts < k).double().mean().item() for k in RANKS},
        video_to_text={k: (ranks.of_videos < k).double().mean().item() for k in RANKS},
        mean_ranks=(1 + fmean(ranks.of_texts.tolist()), 1 + fmean(ranks.of_videos.tolist())),
        median_ranks=(1 + median(ranks.of_texts.tolist()), 1 + median(ranks.of_videos.tolist())),
        chance=right.sum().item() / texts / videos,
        videos=videos,
        texts=texts,
    )


@dataclass(frozen=True)
class Answer:
    """A caption and what it found: places of the videos, most similar first, and those of its own."""

    caption: str
    found: tuple[int, ...]
    right: frozenset[int]


def answers(found: RetrievalResult, *, texts: Sequence[int], first: int) -> list[Answer]:
    """The first videos for some captions."""
    nearest = found.similarity.argsort(dim=0, descending=True, stable=True)[:first]
    own = {text: frozenset(found.right[:, text].nonzero()[:, 0].tolist()) for text in texts}
    return [Answer(found.captions[text], tuple(nearest[:, text].tolist()), own[text]) for text in texts]
