"""What the frozen features of a module in training know: a vote of nearest neighbours for each label, and RankMe.

Shapes: M held-out clips, N clips that vote, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from umt_ds.classes.matching import ClassMatch
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.distributed.collectives import gather_objects
from umt_ds.distributed.world import World
from umt_ds.evaluation.encode import Encode, EncodedSet, encode_set, on_first_rank, place_of
from umt_ds.evaluation.evaluator import Beat, Scores
from umt_ds.evaluation.frozen_features import features_of, title
from umt_ds.evaluation.metrics.knn import NEIGHBOURS, TEMPERATURE, Votes, chance_accuracy, chunks, knn_vote
from umt_ds.evaluation.metrics.rankme import rankme
from umt_ds.evaluation.said import Said, protocol_of, say_left_out, set_protocol

_ENCODER = "module"


@dataclass(frozen=True)
class KnnEvaluator:
    """Satisfies `Evaluator`. encoder_of: features [B,D] by the trained module.

    held_out and voters are asked for the same label fields; without any there are no voters, and RankMe is alone.
    matches: by field, what labels of held-out clips are called by the voters; without one they are called the same.
    about: for the protocol.
    """

    name: str
    held_out: EvaluationSet
    voters: EvaluationSet | None
    encoder_of: Callable[[nn.Module], Encode]
    matches: Mapping[str, ClassMatch] = field(default_factory=dict)
    neighbours: int = NEIGHBOURS
    temperature: float = TEMPERATURE
    num_workers: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)
    said: Said = field(default_factory=Said)

    @property
    def fields(self) -> tuple[str, ...]:
        """The label fields that are voted on."""
        return tuple(self.held_out.request.label_fields)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Accuracy in percent for each label, by its name, and `rankme`."""
        return (*map(title, self.fields), "rankme")

    @property
    def sets(self) -> Sequence[EvaluationSet]:
        return [self.held_out, *([] if self.voters is None else [self.voters])]

    def run(self, module: nn.Module, world: World, *, beat: Beat, predictions: bool = False) -> Scores:
        """See `Evaluator`. A row of the predictions is a held-out clip: its labels, those voted for, and the share of
        the votes that each of these had. Labels are those of the voters' class list."""
        device, precision = place_of(module)
        encode = partial(
            encode_set,
            {_ENCODER: self.encoder_of(module)},
            world=world,
            device=device,
            num_workers=self.num_workers,
            beat=beat,
        )
        asked = encode(self.held_out)
        say_left_out(self.said, self.name, self.held_out, asked.left_out)
        values: dict[str, float] = {}
        columns: dict[str, list[Any]] = {"key": list(asked.keys)}
        protocol = protocol_of(self.held_out, asked, precision=precision)
        if self.voters is not None:
            known = encode(self.voters)
            say_left_out(self.said, self.name, self.voters, known.left_out)
            votes, chance = self._vote(known, asked, world, device, beat)
            for label, (vote, truth) in votes.items():
                values[title(label)] = 100 * int((vote.winners == truth).sum()) / len(truth)
                columns |= {
                    title(label): truth.tolist(),
                    f"{title(label)}_predicted": vote.winners.tolist(),
                    f"{title(label)}_share": vote.shares.tolist(),
                }
            protocol |= {
                "voters": set_protocol(self.voters, known) | {"shared": self._shared(known, asked)},
                "neighbours": self.neighbours,
                "temperature": self.temperature,
                "chance": chance,
            }
        values["rankme"] = on_first_rank(world, lambda: rankme(asked.vectors[_ENCODER]))
        return Scores(
            self.name,
            values,
            items=len(asked.items),
            left_out=asked.left_out,
            protocol={**protocol, "labels": list(self.fields), **self.about},
            predictions=columns if predictions else None,
        )

    def _vote(
        self, known: EncodedSet, asked: EncodedSet, world: World, device: torch.device, beat: Beat
    ) -> tuple[dict[str, tuple[Votes, Tensor]], dict[str, float]]:
        """By label field the votes on the held-out clips with their true labels i64 [M]; by metric the accuracy of
        chance, in percent."""
        train = features_of(known, _ENCODER, self.fields)
        test = features_of(asked, _ENCODER, self.fields, self.matches)
        votes, chance = {}, {}
        for label in self.fields:
            vectors, classes = train.labelled(label)
            votes[label] = self._shared_vote(vectors, classes, test.vectors, world, device, beat), test.labels[label]
            chance[title(label)] = 100 * chance_accuracy(train, test, label=label)
        return votes, chance

    def _shared_vote(
        self, known: Tensor, classes: Tensor, asked: Tensor, world: World, device: torch.device, beat: Beat
    ) -> Votes:
        """The vote on all held-out clips, [M,D], each chunk of them by one rank: the same on every rank."""
        known, classes = known.to(device), classes.to(device)
        own = {}
        for number, some in enumerate(chunks(asked)):
            if number % world.size == world.rank:
                vote = knn_vote(known, classes, some.to(device), k=self.neighbours, temperature=self.temperature)
                own[number] = Votes(vote.winners.cpu(), vote.shares.cpu())
                beat()
        every = {number: vote for some in gather_objects(own) for number, vote in some.items()}
        return Votes(*(torch.cat(column) for column in zip(*(every[number] for number in sorted(every)), strict=True)))

    def _shared(self, known: EncodedSet, asked: EncodedSet) -> int:
        """Held-out clips that vote on themselves. Says so."""
        contents = {item.content for item in known.items}
        shared = sum(item.content in contents for item in asked.items)
        if shared:
            share = 100 * shared / len(asked.items)
            self.said.warn(
                f"evaluation.{self.name}: {share:.3g} % of the held-out clips ({shared}) are among the clips that vote "
                "on them, so its accuracy says nothing of new clips: name other shards or voters"
            )
        return shared
