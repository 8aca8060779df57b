"""Nearest neighbours vote on the labels of held-out clips. Nothing is trained.

Shapes: D width, N labelled clips that vote, M clips that are asked about, k neighbours, C classes that occur.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from umt_ds.errors import DataError

NEIGHBOURS, TEMPERATURE = 20, 0.07  # DINO's values
_CHUNK = 256  # clips asked about at a time: the table of similarities is [256,N]


@dataclass(frozen=True)
class Features:
    """The clips of one set as vectors f32 [N,D], with labels i64 [N] by field (-1: none) and keys (N), on the CPU."""

    vectors: Tensor
    labels: dict[str, Tensor]
    keys: tuple[str, ...]

    def labelled(self, field: str) -> tuple[Tensor, Tensor]:
        """Vectors and labels of the clips that have a label in `field`. Raises DataError if none has."""
        labels = self.labels[field]
        known = labels >= 0
        if not known.any():
            raise DataError(f"none of {len(labels)} clips has a label {field!r}", hint="write the shards with labels")
        return self.vectors[known], labels[known]


class Votes(NamedTuple):
    """winners: i64 [M], the class of each clip. shares: f64 [M], its part of the votes."""

    winners: Tensor
    shares: Tensor


def knn_vote(known: Tensor, classes: Tensor, asked: Tensor, *, k: int, temperature: float) -> Votes:
    """The class that wins the vote of the k most similar known clips. known: [N,D], classes: i64 [N], asked: [M,D].

    A neighbour's vote weighs exp(cosine / temperature). fp32 similarities, fp64 votes. Equal similarities go to
    the earlier known clip, equal votes to the lower class.
    Source: Wu et al. 2018 (arXiv:1805.01978); DINO, eval_knn.py.
    """
    names, numbers = torch.unique(classes, return_inverse=True)  # [C], [N]
    similar = F.normalize(asked.float(), dim=-1) @ F.normalize(known.float(), dim=-1).T  # [M,N]
    nearest = similar.argsort(dim=1, descending=True, stable=True)[:, :k]  # [M,k]
    cosines = similar.gather(1, nearest).double()
    weight = torch.exp((cosines - cosines[:, :1]) / temperature)  # of the nearest 1, so that no row is all zeros
    votes = weight.new_zeros(len(asked), len(names)).scatter_add_(1, numbers[nearest], weight)  # [M,C]
    winner = votes.argsort(dim=1, descending=True, stable=True)[:, 0]  # the lower one of equals
    return Votes(names[winner], votes.gather(1, winner[:, None])[:, 0] / votes.sum(dim=1))


def chunks(asked: Tensor) -> Iterator[Tensor]:
    """Rows to ask about together: a table of similarities of all of them may not fit into memory."""
    return iter(torch.split(asked, _CHUNK))


def knn_accuracy(
    train: Features, test: Features, *, label: str, k: int = NEIGHBOURS, temperature: float = TEMPERATURE
) -> float:
    """Share of test clips whose class wins the vote of training clips (`knn_vote`). Clips without the label are left
    out. Raises DataError where a set has none with it."""
    known, classes = train.labelled(label)
    asked, truth = test.labelled(label)
    answers = [knn_vote(known, classes, some, k=k, temperature=temperature).winners for some in chunks(asked)]
    return float((torch.cat(answers) == truth).double().mean())


def chance_accuracy(train: Features, test: Features, *, label: str) -> float:
    """What one reaches without looking: always the most common class of the training clips (1/C if all are equal)."""
    _, classes = train.labelled(label)
    _, truth = test.labelled(label)
    names, counts = torch.unique(classes, return_counts=True)
    guess = names[counts.argsort(descending=True, stable=True)[0]]
    return float((truth == guess).double().mean())
