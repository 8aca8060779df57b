"""Zero-shot retrieval: which video a caption finds among all, and which caption a video, by their embeddings.

Shapes: V videos, P vectors of each, T captions of all videos together, C width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from umt_ds.batch import Tokens
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.distributed.collectives import gather_uneven
from umt_ds.distributed.world import World
from umt_ds.evaluation.encode import ALONE, EncodedSet, encode_set, no_beat, on_first_rank, place_of
from umt_ds.evaluation.evaluator import Beat, Scores
from umt_ds.evaluation.gallery import Gallery, gallery_of
from umt_ds.evaluation.metrics.retrieval import (
    RANKS,
    RetrievalResult,
    RetrievalScores,
    retrieval_ranks,
    retrieval_scores,
    similarity,
)
from umt_ds.evaluation.said import Said, protocol_of, say_left_out

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
class EmbeddedSet:
    """videos: f32 [V,P,C]; texts: f32 [T,C], of the gallery. The same on all ranks, on the CPU."""

    encoded: EncodedSet
    gallery: Gallery
    videos: Tensor
    texts: Tensor

    def compared(self) -> RetrievalResult:
        """Each with each."""
        items = [self.encoded.items[place] for place in self.gallery.videos]
        return RetrievalResult(
            tuple(item.key for item in items),
            tuple(item.number for item in items),
            self.gallery.captions,
            self.gallery.right,
            similarity(self.videos, self.texts),
        )


def embed_set(
    model: Embeds,
    tokenizer: Tokenizer,
    items: EvaluationSet,
    world: World = ALONE,
    *,
    device: torch.device | None = None,
    num_workers: int = 0,
    beat: Beat = no_beat,
) -> EmbeddedSet:
    """Embed the videos and captions of the gallery of a set. Arguments and errors as of `encode_set`."""
    encoded = encode_set(
        {"videos": model.embed_videos}, items, world, device=device, num_workers=num_workers, beat=beat
    )
    gallery = gallery_of(encoded.items)
    texts = _embed_texts(model, tokenizer, list(gallery.captions), world, device or torch.device("cpu"), beat)
    return EmbeddedSet(encoded, gallery, encoded.vectors["videos"][list(gallery.videos)], texts)


@torch.no_grad()
def _embed_texts(
    model: Embeds, tokenizer: Tokenizer, captions: list[str], world: World, device: torch.device, beat: Beat
) -> Tensor:
    """f32 [T,C] on every rank. Batches go to ranks in turns, as those of videos do."""
    starts = range(0, len(captions), _TEXTS)
    turns = -(-len(starts) // world.size)
    found = []
    for turn in range(turns):
        number = turn * world.size + world.rank
        some = captions[number * _TEXTS :][:_TEXTS]
        # where a rank has no text left it encodes others, and throws them away
        embedded = model.embed_texts(tokenizer(some or captions[:1]))
        found.append(embedded[: len(some)].float().cpu())
        beat()
    places = torch.arange(len(captions))
    of_ranks = [places[places // _TEXTS % world.size == rank] for rank in range(world.size)]
    return gather_uneven(torch.cat(found), device)[torch.cat(of_ranks).argsort()]


@dataclass(frozen=True)
class RetrievalEvaluator:
    """Satisfies `Evaluator`. model_of: what embeds with the trained module. about: for the protocol."""

    name: str
    items: EvaluationSet
    model_of: Callable[[nn.Module], Embeds]
    tokenizer: Tokenizer
    num_workers: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)
    said: Said = field(default_factory=Said)

    @property
    def metrics(self) -> tuple[str, ...]:
        """R@1, R@5, R@10 both ways and their mean, in percent."""
        return (*(f"{way}_r{k}" for way in ("t2v", "v2t") for k in RANKS), "mean")

    @property
    def sets(self) -> Sequence[EvaluationSet]:
        return [self.items]

    def run(self, module: nn.Module, world: World, *, beat: Beat, predictions: bool = False) -> Scores:
        """See `Evaluator`. A row of the predictions is a caption: the one of its videos that it finds first, how many
        wrong videos come before that, as a rank from 1, and the video that it finds first of all."""
        device, precision = place_of(module)
        embedded = embed_set(
            self.model_of(module),
            self.tokenizer,
            self.items,
            world,
            device=device,
            num_workers=self.num_workers,
            beat=beat,
        )
        scores, columns = on_first_rank(world, lambda: _judge(embedded, predictions))
        encoded = embedded.encoded
        say_left_out(self.said, self.name, self.items, encoded.left_out)
        return Scores(
            self.name,
            values_of(scores),
            items=len(encoded.items),
            left_out=encoded.left_out,
            protocol={
                **protocol_of(self.items, encoded, precision=precision),
                "videos": scores.videos,
                "captions": scores.texts,
                "caption_field": self.items.request.caption_field,
                "similarity": "mean over the frames of the products of unit vectors, temperature 1; no re-ranking",
                "chance": {"t2v_r1": 100 * int(embedded.gallery.right.sum()) / scores.texts / scores.videos},
                **self.about,
            },
            ranks=ranks_of(scores),
            predictions=columns,
        )


def _judge(embedded: EmbeddedSet, predictions: bool) -> tuple[RetrievalScores, dict[str, list[Any]] | None]:
    found = embedded.compared()
    return retrieval_scores(found.similarity, found.right), _columns(found) if predictions else None


def _columns(found: RetrievalResult) -> dict[str, list[Any]]:
    own = found.similarity.masked_fill(~found.right, -torch.inf).max(dim=0)
    best = found.similarity.max(dim=0)
    return {
        "key": [found.keys[video] for video in own.indices.tolist()],
        "caption": list(found.captions),
        "rank": (retrieval_ranks(found.similarity, found.right).of_texts + 1).tolist(),
        "found_first": [found.keys[video] for video in best.indices.tolist()],
        "similarity": best.values.tolist(),
    }


def values_of(scores: RetrievalScores) -> dict[str, float]:
    """By the names of `RetrievalEvaluator.metrics`, in percent."""
    ways = {"t2v": scores.text_to_video, "v2t": scores.video_to_text}
    return {f"{way}_r{k}": 100 * share for way, found in ways.items() for k, share in found.items()} | {
        "mean": 100 * scores.mean
    }


def ranks_of(scores: RetrievalScores) -> dict[str, float]:
    """`t2v_mean_rank`, `t2v_median_rank`, and of the other way."""
    (t2v_mean, v2t_mean), (t2v_median, v2t_median) = scores.mean_ranks, scores.median_ranks
    return {
        "t2v_mean_rank": t2v_mean,
        "t2v_median_rank": t2v_median,
        "v2t_mean_rank": v2t_mean,
        "v2t_median_rank": v2t_median,
    }
