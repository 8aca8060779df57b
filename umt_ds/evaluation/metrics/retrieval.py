"""What finds what: held-out videos and their captions, by the similarity of their embeddings. Nothing is trained.

Shapes: V videos, P vectors of each, T captions of all videos together, C width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

RANKS = (1, 5, 10)
_VIDEOS = 256  # compared at a time: the products of their vectors are [256,P,T]


@dataclass(frozen=True)
class RetrievalResult:
    """Similarities of all videos and captions, f32 [V,T]. video_of_text: i64 [T]. captions: T."""

    keys: tuple[str, ...]
    captions: tuple[str, ...]
    video_of_text: Tensor
    similarity: Tensor


@dataclass(frozen=True)
class RetrievalScores:
    """Part of the queries whose answer is among the first 1, 5, 10: for each caption its video, and for each video one
    of its captions. chance: R@1 of captions in a random order of the videos."""

    text_to_video: dict[int, float]
    video_to_text: dict[int, float]
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
    """How many wrong ones come before the right one. of_texts: i64 [T], videos before that of a caption; of_videos:
    i64 [V], captions before the first of a video's own."""

    of_texts: Tensor
    of_videos: Tensor


def retrieval_ranks(similar: Tensor, video_of_text: Tensor) -> RetrievalRanks:
    """similar: f32 [V,T]; video_of_text: i64 [T].

    Of equals, and of what is not a number, those that are wrong come first: a model that finds everything alike, or
    has gone to NaN, finds nothing. Source: METHOD.md, "Retrieval".
    """
    videos, texts = similar.shape
    is_answer = video_of_text[None] == torch.arange(videos)[:, None]  # [V,T]
    own = similar[video_of_text, torch.arange(texts)]  # [T]
    before = ~(similar < own) & ~is_answer  # wrong videos that come before the right one; NaN is never less
    best = similar.masked_fill(~is_answer, -torch.inf).max(dim=1).values  # [V], of the caption found first
    return RetrievalRanks(before.sum(dim=0), (~(similar < best[:, None]) & ~is_answer).sum(dim=1))


def retrieval_scores(similar: Tensor, video_of_text: Tensor) -> RetrievalScores:
    """R@1, R@5 and R@10 both ways. similar: f32 [V,T]; video_of_text: i64 [T]."""
    ranks = retrieval_ranks(similar, video_of_text)
    videos, texts = similar.shape
    return RetrievalScores(
        text_to_video={k: (ranks.of_texts < k).double().mean().item() for k in RANKS},
        video_to_text={k: (ranks.of_videos < k).double().mean().item() for k in RANKS},
        chance=1 / videos,
        videos=videos,
        texts=texts,
    )


@dataclass(frozen=True)
class Answer:
    """A caption and what it found: numbers of the videos, most similar first, and that of its own."""

    caption: str
    found: tuple[int, ...]
    right: int


def answers(found: RetrievalResult, *, texts: Sequence[int], first: int) -> list[Answer]:
    """The first videos for some captions."""
    nearest = found.similarity.argsort(dim=0, descending=True, stable=True)[:first]
    owners = found.video_of_text.tolist()
    return [Answer(found.captions[text], tuple(nearest[:, text].tolist()), owners[text]) for text in texts]
