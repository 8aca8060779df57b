"""Multiple choice: which of a few texts fits the video of an item. Their number may differ from item to item.

Source: METHOD.md, "Multiple choice". Shapes: B items of a batch, O options of an item, R pairs of an option and its
video.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from umt_ds.batch import Tokens
from umt_ds.data.evaluation import EvalBatch, EvaluationSet, ItemInfo, LeftOut
from umt_ds.data.shards.sample_record import Choice
from umt_ds.distributed.collectives import gather_objects
from umt_ds.distributed.world import World
from umt_ds.evaluation.encode import EncodedSet, each_turn, gather_items, on_first_rank, place_of, refuse_non_finite
from umt_ds.evaluation.evaluator import Beat, Scores
from umt_ds.evaluation.metrics.multiple_choice import (
    MATCH_WEIGHT,
    SIMILARITY_WEIGHT,
    choice_accuracy,
    choice_scores,
)
from umt_ds.evaluation.retrieval import Tokenizer
from umt_ds.evaluation.said import Said, protocol_of, say_left_out

_PAIRS = 64  # that go through the model together: a pair looks at all tokens of its video

Seen = TypeVar("Seen")


class Compares(Protocol[Seen]):
    """A model of video and text in evaluation mode."""

    @property
    def temperature(self) -> float:
        """The trained one, by which similarities are divided."""

    def look(self, pixels: Tensor) -> Seen:
        """What it makes of videos, u8 [B,T,H,W,3]."""

    def compare(self, seen: Seen, texts: Tokens, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Text r beside video rows[r]: similarities f32 [R], and logits f32 [R,2] of whether they match."""


class Answered(NamedTuple):
    """What a model says of an item: similarities f32 [O], not yet divided by the temperature, logits f32 [O,2]."""

    similarity: Tensor
    match: Tensor


@dataclass(frozen=True)
class AnsweredSet:
    """encoded: the Q items that could be read. answered: what was said of each. On every rank the same."""

    encoded: EncodedSet
    answered: tuple[Answered, ...]
    temperature: float

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The options of each item, and the place of the right one."""
        return tuple(item.said for item in self.encoded.items)

    @property
    def right(self) -> Tensor:
        """Places of the right options: i64 [Q]."""
        return torch.tensor([choice.answer for choice in self.choices])

    def padded(self, score: Callable[[Answered], Tensor]) -> Tensor:
        """A score of each option, f32 [Q,C]; of places where an item has no option the least there is."""
        return pad_sequence([score(one) for one in self.answered], batch_first=True, padding_value=-torch.inf)

    def scores(self) -> Tensor:
        """As published, f32 [Q,C]."""

        def of_item(one: Answered) -> Tensor:
            return choice_scores(one.similarity[None], one.match[None], temperature=self.temperature)[0]

        return self.padded(of_item)


@torch.no_grad()
def answer_set(
    model: Compares[Any],
    tokenizer: Tokenizer,
    items: EvaluationSet,
    world: World,
    *,
    num_workers: int,
    beat: Beat,
    pairs: int = _PAIRS,
) -> AnsweredSet:
    """What a model says of each item, on every rank the same. pairs: that are compared together; a batch is cut into
    these by itself, so they are the same at any number of ranks. Errors as of `each_turn` and `gather_items`."""
    read: list[ItemInfo] = []
    own: list[Answered] = []
    left_out: list[LeftOut] = []
    with closing(each_turn(items, world, num_workers=num_workers, beat=beat)) as turns:
        for batch in turns:
            own += _answers(model, tokenizer, batch, pairs)
            read += batch.items
            left_out += batch.left_out
    encoded, order = gather_items(items, read, left_out)
    said = [one for some in gather_objects(own) for one in some]
    return AnsweredSet(encoded, tuple(said[place] for place in order), model.temperature)


def _answers(model: Compares[Seen], tokenizer: Tokenizer, batch: EvalBatch, pairs: int) -> list[Answered]:
    """Of the items of a batch. All ranks make as many passes as the one with the most pairs."""
    counts = [len(item.said.options) for item in batch.items]
    texts = [text for item in batch.items for text in item.said.options]
    rows = torch.tensor([row for row, count in enumerate(counts) for _ in range(count)])  # [R]
    seen = model.look(batch.pixels)
    similarity, match = [torch.zeros(0)], [torch.zeros(0, 2)]
    for start in range(0, max(gather_objects(len(texts))), pairs):
        some = texts[start : start + pairs]
        # where a rank has no pair left it compares another, and throws it away
        of_rows = rows[start : start + pairs] if some else torch.tensor([0])
        found = model.compare(seen, tokenizer(some or [""]), of_rows)
        similarity.append(found[0][: len(some)].float().cpu())
        match.append(found[1][: len(some)].float().cpu())
    parts = zip(*(torch.split(torch.cat(each), counts) for each in (similarity, match)), strict=True)
    return [Answered(*part) for part in parts]


@dataclass(frozen=True)
class MultipleChoiceEvaluator:
    """Satisfies `Evaluator`. items are asked for a `Choice` (`ItemInfo.said`). model_of: what compares, of the trained
    module. about: for the protocol."""

    name: str
    items: EvaluationSet
    model_of: Callable[[nn.Module], Compares[Any]]
    tokenizer: Tokenizer
    num_workers: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)
    said: Said = field(default_factory=Said)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Accuracy in percent by the published score, and by each of its parts alone."""
        return ("accuracy", "match_accuracy", "similarity_accuracy")

    @property
    def sets(self) -> Sequence[EvaluationSet]:
        return [self.items]

    def run(self, module: nn.Module, world: World, *, beat: Beat, predictions: bool = False) -> Scores:
        """See `Evaluator`. A row of the predictions is an item: its place in the set, options with their scores, the
        place of the right one, of that with the best score, and whether the right one is above all others."""
        _, precision = place_of(module)
        model = self.model_of(module)
        found = answer_set(model, self.tokenizer, self.items, world, num_workers=self.num_workers, beat=beat)
        encoded = found.encoded
        say_left_out(self.said, self.name, self.items, encoded.left_out)
        is_number = [bool(torch.cat([one.similarity, one.match.flatten()]).isfinite().all()) for one in found.answered]
        refuse_non_finite(encoded.keys, is_number, where=f"evaluation.{self.name}")
        values, columns = on_first_rank(world, lambda: (_values(found), _columns(found) if predictions else None))
        return Scores(
            self.name,
            values,
            items=len(encoded.items),
            left_out=encoded.left_out,
            protocol={**protocol_of(self.items, encoded, precision=precision), **_protocol(found), **self.about},
            predictions=columns,
        )


def _values(found: AnsweredSet) -> dict[str, float]:
    shares = {
        "accuracy": choice_accuracy(found.scores(), found.right),
        "match_accuracy": choice_accuracy(found.padded(lambda one: one.match.softmax(dim=1)[:, 1]), found.right),
        "similarity_accuracy": choice_accuracy(found.padded(lambda one: one.similarity), found.right),
    }
    return {name: 100 * share for name, share in shares.items()}


def _columns(found: AnsweredSet) -> dict[str, list[Any]]:
    choices, scores, right = found.choices, found.scores(), found.right
    return {
        "key": list(found.encoded.keys),
        "number": [item.number for item in found.encoded.items],
        "options": [list(choice.options) for choice in choices],
        "answer": right.tolist(),
        "chosen": scores.argmax(dim=1).tolist(),
        "is_right": [choice_accuracy(row[None], answer[None]) == 1 for row, answer in zip(scores, right, strict=True)],
        "score": [row[: len(choice.options)].tolist() for row, choice in zip(scores, choices, strict=True)],
    }


def _protocol(found: AnsweredSet) -> dict[str, Any]:
    counts = [len(choice.options) for choice in found.choices]
    return {
        "options": [min(counts), max(counts)],
        "score": "of the probability that they match, and of the softmax over the options of similarity / temperature",
        "score_weights": {"match": MATCH_WEIGHT, "similarity": SIMILARITY_WEIGHT},
        "temperature_found": found.temperature,  # of the weights: another one after each step
        "ties": "an option that only equals the best is not chosen",
        "chance": {"accuracy": 100 * sum(1 / count for count in counts) / len(counts)},
    }
