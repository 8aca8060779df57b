"""Re-ranking: a model that looks at a video and a text together scores the pairs that embeddings find most similar.

    chunk c    videos [c·B, (c+1)·B) of the gallery, which are read and encoded together, and the pairs of these
    turn t     of rank r is the chunk t·world + r of those that are left to do; all ranks make the same passes in it,
               on nothing where they have fewer, because ZeRO stage 3 gathers weights in them

Videos are read once more for it: the tokens of all of them would not fit into memory. A chunk is the same work whatever
the number of ranks and whatever was done before, so that on a CPU every bit of its scores is the same.

Source: METHOD.md, "Retrieval". Shapes: V videos, N tokens of each, D their width, T texts, L tokens, W their
width, R texts that look at one video together, M pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from umt_ds.batch import Tokens
from umt_ds.data.evaluation import EvalBatch, EvaluationSet
from umt_ds.distributed.collectives import gather_objects, gather_uneven
from umt_ds.distributed.world import World
from umt_ds.errors import DataError, UmtError
from umt_ds.evaluation.evaluator import Beat, begins
from umt_ds.evaluation.finished_parts import FinishedParts
from umt_ds.evaluation.metrics.reranking import Candidates
from umt_ds.models.bert import Looked


class Matches(Protocol):
    """A model that looks at video and text together, in evaluation mode."""

    def encode_texts(self, tokens: Tokens) -> Tensor:
        """To states [B,L,W], in the precision of the model."""

    def encode_videos(self, pixels: Tensor) -> Tensor:
        """u8 [B,T,H,W,3] to all tokens [B,N,D]."""

    def look(self, video: Tensor) -> Sequence[Looked]:
        """[1,N,D], made once for all texts that look at it."""

    def match(self, states: Tensor, is_token: Tensor, looked: Sequence[Looked]) -> Tensor:
        """Texts [R,L,W], bool [R,L], with one video: the logits that they match it, f32 [R]."""


@dataclass(frozen=True)
class TextStates:
    """Encoded texts without their padding, one after another. states: [sum of lengths,W], on the device of the model;
    starts: i64 [T], lengths: i64 [T], on the CPU."""

    states: Tensor
    starts: Tensor
    lengths: Tensor

    def some(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Of i64 [R]: states [R,L,W] and bool [R,L], as long as the longest of them."""
        lengths = self.lengths[texts, None]
        places = torch.arange(int(lengths.max())).expand(len(texts), -1)
        is_token = places < lengths
        rows = self.starts[texts, None] + places.where(is_token, 0)  # padding: any state, which nobody looks at
        device = self.states.device
        return self.states[rows.to(device)], is_token.to(device)


@torch.no_grad()
def encode_all_texts(
    model: Matches, batches: Sequence[Tokens], world: World, *, device: torch.device, beat: Beat
) -> TextStates:
    """Of all texts, on every rank. Batches go to ranks in turns, as those of videos do."""
    states, lengths = [], []
    for turn in range(-(-len(batches) // world.size)):
        number = turn * world.size + world.rank
        tokens = batches[min(number, len(batches) - 1)]  # where a rank has none left it encodes others
        encoded = model.encode_texts(tokens)[tokens.mask.to(device)]
        counts = tokens.mask.sum(dim=1)
        states.append(encoded if number < len(batches) else encoded[:0])
        lengths.append(counts if number < len(batches) else counts[:0])
        beat()
    of_ranks = [range(rank, len(batches), world.size) for rank in range(world.size)]
    order = torch.tensor([number for numbers in of_ranks for number in numbers]).argsort().tolist()
    sizes = [len(batches[number].mask) for numbers in of_ranks for number in numbers]
    every = _in_order(gather_uneven(torch.cat(lengths), device), sizes, order)
    tokens_of = [int(batches[number].mask.sum()) for numbers in of_ranks for number in numbers]
    flat = _in_order(gather_uneven(torch.cat(states), device), tokens_of, order)
    return TextStates(flat.to(device), every.cumsum(0) - every, every)


def _in_order(rows: Tensor, sizes: Sequence[int], order: Sequence[int]) -> Tensor:
    """Parts of so many rows, one after another, in another order."""
    parts = torch.split(rows, list(sizes))
    return torch.cat([parts[number] for number in order])


@dataclass(frozen=True)
class Chunks:
    """The work in parts. videos: how many of a part; together: texts that look at a video in one pass."""

    candidates: Candidates
    videos: int
    together: int

    def __len__(self) -> int:
        return -(-len(self.candidates.texts) // self.videos)

    def videos_of(self, chunk: int) -> range:
        """In the gallery."""
        return range(chunk * self.videos, min((chunk + 1) * self.videos, len(self.candidates.texts)))

    def pairs_of(self, chunk: int) -> slice:
        """Of all pairs."""
        bounds, videos = self.candidates.bounds, self.videos_of(chunk)
        return slice(int(bounds[videos.start]), int(bounds[videos.stop]))

    def passes_of(self, chunk: int) -> list[int]:
        """Passes of texts with each of `videos` videos; 0 where a chunk has fewer."""
        bounds = self.candidates.bounds
        counts = [int(bounds[video + 1] - bounds[video]) for video in self.videos_of(chunk)]
        return [-(-count // self.together) for count in counts] + [0] * (self.videos - len(counts))


@dataclass(frozen=True)
class Reranker:
    """numbers: of the videos of the gallery in `items` (`ItemInfo.number`). parts: where finished chunks are kept."""

    model: Matches
    texts: TextStates
    items: EvaluationSet
    numbers: Sequence[int]
    chunks: Chunks
    parts: FinishedParts | None = None

    @torch.no_grad()
    def scores(self, world: World, *, num_workers: int = 0, beat: Beat) -> Tensor:
        """Of all pairs: f32 [M], on every rank. Raises DataError or MachineError on all ranks, where one of them cannot
        read."""
        found = torch.full((len(self.chunks.candidates.pairs),), torch.nan)
        finished = self._finished()
        for chunk, scores in finished.items():
            found[self.chunks.pairs_of(chunk)] = scores
        left = [chunk for chunk in range(len(self.chunks)) if chunk not in finished]
        begins(beat, "re-ranking", -(-len(left) // world.size))
        for turn in self._turns(left, world, num_workers):
            for chunk, scores in turn.items():
                found[self.chunks.pairs_of(chunk)] = scores
                if self.parts is not None:
                    self.parts.write(chunk, scores)
            beat()
        return found

    def _finished(self) -> Mapping[int, Tensor]:
        """Chunks that an earlier start has left."""
        if self.parts is None:
            return {}
        slices = [self.chunks.pairs_of(chunk) for chunk in range(len(self.chunks))]
        return self.parts.read([one.stop - one.start for one in slices])

    def _turns(self, left: Sequence[int], world: World, num_workers: int) -> Iterator[dict[int, Tensor]]:
        """The chunks that are left, with their scores, in their order: of each turn those of all ranks."""
        items = self.items.only([self.numbers[video] for chunk in left for video in self.chunks.videos_of(chunk)])
        with closing(items.batches(rank=world.rank, world=world.size, num_workers=num_workers)) as batches:
            for start in range(0, len(left), world.size):
                now = left[start : start + world.size]
                own = now[world.rank] if world.rank < len(now) else None
                scores, failure = self._turn(batches, own, now)
                of_ranks = gather_objects((scores.numpy(), failure))
                met = next((error for _, error in of_ranks if error is not None), None)
                if met is not None:
                    raise met.by_all_ranks()
                yield {chunk: torch.from_numpy(of_ranks[rank][0]) for rank, chunk in enumerate(now)}

    def _turn(
        self, batches: Iterator[EvalBatch], own: int | None, now: Iterable[int]
    ) -> tuple[Tensor, UmtError | None]:
        """The chunk of this rank in a turn in which all ranks have the chunks `now`."""
        failure = None
        batch = self.items.empty_batch()
        try:
            batch = next(batches)
            _check_all_read(batch, 0 if own is None else len(self.chunks.videos_of(own)))
        except UmtError as error:
            failure, own = error, None
        passes = [max(of_place) for of_place in zip(*map(self.chunks.passes_of, now), strict=True)]
        return self._pass(batch.pixels, own, passes), failure

    def _pass(self, pixels: Tensor, own: int | None, passes: Sequence[int]) -> Tensor:
        """The scores of a chunk, in so many passes with each of its videos; None: as many, and no scores."""
        tokens = self.model.encode_videos(pixels)
        videos = [] if own is None else list(self.chunks.videos_of(own))
        nothing = torch.zeros(0, dtype=torch.int64)
        found = [torch.zeros(0)]
        for place, count in enumerate(passes):
            texts = self._texts_of(videos[place]) if place < len(videos) else nothing
            order = self.texts.lengths[texts].argsort(stable=True)  # texts of one length together: less padding
            looked = self.model.look(tokens[min(place, len(tokens) - 1)][None])
            logits = []
            for some in [*torch.split(order, self.chunks.together), *[nothing] * count][:count]:
                states, is_token = self.texts.some(texts[some] if len(some) else nothing.new_zeros(1))
                logits.append(self.model.match(states, is_token, looked)[: len(some)])
            if len(texts):
                found.append(torch.cat(logits).float().cpu()[order.argsort()])
        return torch.cat(found)

    def _texts_of(self, video: int) -> Tensor:
        bounds = self.chunks.candidates.bounds
        return self.chunks.candidates.texts_of_pairs[int(bounds[video]) : int(bounds[video + 1])]


def _check_all_read(batch: EvalBatch, wanted: int) -> None:
    """Raises DataError where a clip that was read for its embedding cannot be read for re-ranking."""
    if len(batch.items) == wanted:
        return
    first = batch.left_out[0]
    raise DataError(
        f"clip {first.key} was read for its embedding, and cannot be read again for re-ranking: {first.reason}",
        hint="look whether the set changes, or its disk fails, and start again",
    )
