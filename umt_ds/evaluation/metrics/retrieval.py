"""What finds what: held-out videos and their captions, by the similarity of their embeddings. Nothing is trained.

Shapes: V videos, P vectors of each, T captions of all videos together, C width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from umt_ds.batch import Tokens
from umt_ds.data.evaluation import EvalBatch

RANKS = (1, 5, 10)
_TEXTS = 64  # captions that are encoded together


class Embeds(Protocol):
    """A model of video and text in evaluation mode."""

    def embed_videos(self, pixels: Tensor) -> Tensor:
        """u8 [B,T,H,W,3] to P unit vectors of each, f32 [B,P,C]."""

    def embed_texts(self, tokens: Tokens) -> Tensor:
        """To unit vectors, f32 [B,C]."""


class Tokenizer(Protocol):
    """What makes tokens of clean captions."""

    def __call__(self, captions: list[str]) -> Tokens:
        """All of one length."""


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


def find(model: Embeds, tokenizer: Tokenizer, clips: Iterable[EvalBatch]) -> RetrievalResult:
    """Embed all clips and all their captions, and compare each with each."""
    videos: list[Tensor] = []
    keys: list[str] = []
    captions: list[str] = []
    owners: list[int] = []
    for batch in clips:
        videos.append(model.embed_videos(batch.pixels).float().cpu())
        for key, own in zip(batch.keys, batch.captions, strict=True):
            owners += [len(keys)] * len(own)
            captions += own
            keys.append(key)
    parts = [captions[start : start + _TEXTS] for start in range(0, len(captions), _TEXTS)]
    texts = torch.cat([model.embed_texts(tokenizer(part)).float().cpu() for part in parts])
    return RetrievalResult(tuple(keys), tuple(captions), torch.tensor(owners), similarity(torch.cat(videos), texts))


def similarity(videos: Tensor, texts: Tensor) -> Tensor:
    """Products of unit vectors, the mean over the vectors of a video: f32 [V,P,C] and [T,C] to [V,T].

    Temperature 1. Source: METHOD.md, "Temperature and similarity", "Retrieval".
    """
    return torch.einsum("vpc,tc->vpt", videos, texts).mean(dim=1)


def retrieval_scores(similar: Tensor, video_of_text: Tensor) -> RetrievalScores:
    """R@1, R@5 and R@10 both ways. similar: f32 [V,T]; video_of_text: i64 [T].

    Of equals, and of what is not a number, those that are wrong come first: a model that finds everything alike, or
    has gone to NaN, finds nothing. Source: METHOD.md, "Retrieval".
    """
    videos, texts = similar.shape
    is_answer = video_of_text[None] == torch.arange(videos)[:, None]  # [V,T]
    own = similar[video_of_text, torch.arange(texts)]  # [T]
    before = ~(similar < own) & ~is_answer  # wrong videos that come before the right one; NaN is never less
    rank_of_text = before.sum(dim=0)
    best = similar.masked_fill(~is_answer, -torch.inf).max(dim=1).values  # [V], of the caption found first
    rank_of_video = (~(similar < best[:, None]) & ~is_answer).sum(dim=1)
    return RetrievalScores(
        text_to_video={k: (rank_of_text < k).double().mean().item() for k in RANKS},
        video_to_text={k: (rank_of_video < k).double().mean().item() for k in RANKS},
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
