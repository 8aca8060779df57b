"""Retrieval: which video a caption finds among all, and which caption a video, by their embeddings; and, among the most
similar, by a model that looks at both together (`reranking.py`).

Shapes: V videos, P vectors of each, T captions of all videos together, C width of the embeddings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from umt_ds.batch import Tokens
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.distributed.collectives import gather_uneven
from umt_ds.distributed.world import World
from umt_ds.evaluation.encode import ALONE, EncodedSet, encode_set, no_beat, on_first_rank, place_of
from umt_ds.evaluation.evaluator import Beat, KeptWork, Scores
from umt_ds.evaluation.finished_parts import FinishedParts
from umt_ds.evaluation.gallery import Gallery, gallery_of
from umt_ds.evaluation.metrics.dual_softmax import TEMPERATURES, judge_dual_softmax
from umt_ds.evaluation.metrics.reranking import Candidates, candidates_of, reranked, scores_of_texts
from umt_ds.evaluation.metrics.retrieval import (
    RANKS,
    RetrievalResult,
    RetrievalScores,
    retrieval_scores,
    scores_of,
    similarity,
    wrong_before,
)
from umt_ds.evaluation.reranking import Chunks, Matches, Reranker, encode_all_texts
from umt_ds.evaluation.said import Said, protocol_of, say_left_out
from umt_ds.keyed import digest64

RERANKED, DUAL_SOFTMAX = "reranked", "dual_softmax"  # what stands before the names of their numbers
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
class Rerank:
    """See `config.evaluation.Reranking`. model_of: what matches with the trained module."""

    model_of: Callable[[nn.Module], Matches]
    candidates: int
    pairs: int


@dataclass(frozen=True)
class RetrievalEvaluator:
    """Satisfies `Evaluator` and `Resumable`. model_of: what embeds with the trained module. about: for the protocol.
    dual_softmax: its temperature, or a search for it. kept: where the work of re-ranking is kept."""

    name: str
    items: EvaluationSet
    model_of: Callable[[nn.Module], Embeds]
    tokenizer: Tokenizer
    num_workers: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)
    rerank: Rerank | None = None
    dual_softmax: float | Literal["search"] | None = None
    kept: KeptWork | None = None
    said: Said = field(default_factory=Said)

    @property
    def scorers(self) -> tuple[str, ...]:
        """What ranks besides similarity."""
        return (*([RERANKED] if self.rerank else []), *([DUAL_SOFTMAX] if self.dual_softmax is not None else []))

    @property
    def metrics(self) -> tuple[str, ...]:
        """R@1, R@5, R@10 both ways and their mean, in percent: by similarity, and by each of `scorers`."""
        numbers = (*(f"{way}_r{k}" for way in ("t2v", "v2t") for k in RANKS), "mean")
        return (*numbers, *(f"{scorer}_{number}" for scorer in self.scorers for number in numbers))

    @property
    def sets(self) -> Sequence[EvaluationSet]:
        return [self.items]

    def resuming(self, kept: KeptWork) -> RetrievalEvaluator:
        """See `Resumable`: the scores of re-ranking are kept."""
        return replace(self, kept=kept)

    def run(self, module: nn.Module, world: World, *, beat: Beat, predictions: bool = False) -> Scores:
        """See `Evaluator`. A row of the predictions is a caption: the one of its videos that it finds first, how many
        wrong videos come before that, as a rank from 1, and the video that it finds first of all; where the set is
        re-ranked, rank and video by that, too."""
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
        encoded = embedded.encoded
        say_left_out(self.said, self.name, self.items, encoded.left_out)
        protocol = {
            **protocol_of(self.items, encoded, precision=precision),
            **gallery_protocol(embedded.gallery, caption_field=self.items.request.caption_field),
            **self._scored_how(),
            **self.about,
        }
        compared = embedded.compared() if world.is_first else None
        again = None if self.rerank is None else self._rerank(module, embedded, compared, world, protocol, beat)
        found = on_first_rank(world, lambda: self._judge(_there(compared), again, predictions=predictions))
        return Scores(
            self.name,
            found.values,
            items=len(encoded.items),
            left_out=encoded.left_out,
            protocol={**protocol, **found.protocol},
            ranks=found.ranks,
            predictions=found.columns,
            scorers=self.scorers,
        )

    def _scored_how(self) -> dict[str, Any]:
        """For the protocol, what is known before."""
        how = "mean over the frames of the products of unit vectors, temperature 1"
        if self.rerank is None:
            return {"similarity": f"{how}; no re-ranking"}
        return {
            "similarity": how,
            RERANKED: {
                "candidates": self.rerank.candidates,
                "score": "logit of class 1 of the matching head; -100 for what is no candidate",
            },
        }

    def _rerank(
        self,
        module: nn.Module,
        embedded: EmbeddedSet,
        compared: RetrievalResult | None,
        world: World,
        protocol: Mapping[str, Any],
        beat: Beat,
    ) -> PairScores:
        """The fusion encoder's scores of the candidates, on every rank."""
        assert self.rerank is not None
        device, k = place_of(module)[0], self.rerank.candidates
        candidates = on_first_rank(world, lambda: candidates_of(_there(compared).similarity, k=k))
        chunks = Chunks(candidates, videos=self.items.batch_size, together=self.rerank.pairs)
        model, captions = self.rerank.model_of(module), embedded.gallery.captions
        batches = [self.tokenizer(list(captions[start:][:_TEXTS])) for start in range(0, len(captions), _TEXTS)]
        reranker = Reranker(
            model,
            encode_all_texts(model, batches, world, device=device, beat=beat),
            self.items,
            [embedded.encoded.items[place].number for place in embedded.gallery.videos],
            chunks,
            self._parts(embedded, chunks, device, protocol),
        )
        return PairScores(candidates, reranker.scores(world, num_workers=self.num_workers, beat=beat))

    def _parts(
        self, embedded: EmbeddedSet, chunks: Chunks, device: torch.device, protocol: Mapping[str, Any]
    ) -> FinishedParts | None:
        """Kept under a hash of the weights and of all that they are shown."""
        if self.kept is None:
            return None
        decisive: dict[str, Any] = {
            "evaluation": self.name,
            "weights": self.kept.weights,
            "device": device.type,
            "protocol": protocol,
        }
        decisive |= {"together": chunks.together, "videos": chunks.videos, "torch": torch.__version__}
        decisive |= {"clips": [item.content for item in embedded.encoded.items], "texts": embedded.gallery.captions}
        pairs = chunks.candidates.pairs.numpy().tobytes()
        return FinishedParts(self.kept.folder, f"{digest64(json.dumps(decisive, sort_keys=True), pairs):016x}")

    def _judge(self, compared: RetrievalResult, again: PairScores | None, *, predictions: bool) -> _Judged:
        """On the first rank: all numbers, and the rows of the predictions."""
        judged = {"": retrieval_scores(compared.similarity, compared.right)}
        protocol: dict[str, Any] = {}
        columns = columns_of(compared, again) if predictions else None
        if again is not None:
            ranks = reranked(again.candidates, again.scores, compared.right)
            judged[f"{RERANKED}_"] = scores_of(ranks, compared.right)
            protocol["num_pairs"] = len(again.scores)
        if self.dual_softmax is not None:
            temperature, found = judge_dual_softmax(compared.similarity, compared.right, self.dual_softmax)
            judged[f"{DUAL_SOFTMAX}_"] = found
            protocol[DUAL_SOFTMAX] = _temperature_protocol(self.dual_softmax, temperature)
        return _Judged(
            {
                f"{prefix}{name}": value
                for prefix, scores in judged.items()
                for name, value in values_of(scores).items()
            },
            {f"{prefix}{name}": value for prefix, scores in judged.items() for name, value in ranks_of(scores).items()},
            protocol,
            columns,
        )


class PairScores(NamedTuple):
    """scores: f32 [M], of the pairs of the candidates."""

    candidates: Candidates
    scores: Tensor


class _Judged(NamedTuple):
    values: dict[str, float]
    ranks: dict[str, float]
    protocol: dict[str, Any]  # what is known afterwards
    columns: dict[str, list[Any]] | None


def _there(compared: RetrievalResult | None) -> RetrievalResult:
    assert compared is not None, "the first rank has it"
    return compared


def gallery_protocol(gallery: Gallery, *, caption_field: str | None) -> dict[str, Any]:
    """For the protocol: what was compared with what, and how equals count."""
    videos, captions = gallery.right.shape
    of_videos = gallery.right.sum(dim=1)
    return {
        "videos": videos,
        "captions": captions,
        "captions_of_a_video": [int(of_videos.min()), int(of_videos.max())],
        "caption_field": caption_field,
        "ties": "of equals the wrong ones come first",
        "chance": {"t2v_r1": 100 * int(gallery.right.sum()) / captions / videos},
    }


def _temperature_protocol(asked: float | Literal["search"], temperature: float) -> dict[str, Any]:
    if asked != "search":
        return {"temperature": temperature}
    return {
        "temperature_found": temperature,
        "temperatures_tried": list(TEMPERATURES),
        "remark": "the temperature that is best on this very set: these numbers flatter",
    }


def columns_of(compared: RetrievalResult, again: PairScores | None) -> dict[str, list[Any]]:
    """The predictions of `RetrievalEvaluator.run`."""
    own = compared.similarity.masked_fill(~compared.right, -torch.inf).max(dim=0)
    columns = {
        "key": [compared.keys[video] for video in own.indices.tolist()],
        "caption": list(compared.captions),
        **_found_by(compared.similarity, compared, prefix="", score="similarity"),
    }
    if again is not None:
        columns |= _found_by(
            scores_of_texts(again.candidates, again.scores), compared, prefix=f"{RERANKED}_", score="match"
        )
    return columns


def _found_by(scores: Tensor, compared: RetrievalResult, *, prefix: str, score: str) -> dict[str, list[Any]]:
    """scores: f32 [V,T], by which captions look for videos."""
    best = scores.max(dim=0)
    return {
        f"{prefix}rank": (wrong_before(scores, compared.right, dim=0) + 1).tolist(),
        f"{prefix}found_first": [compared.keys[video] for video in best.indices.tolist()],
        score: best.values.tolist(),
    }


def values_of(scores: RetrievalScores) -> dict[str, float]:
    """By the names of `RetrievalEvaluator.metrics` without a scorer, in percent."""
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
