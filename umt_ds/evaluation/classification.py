"""A classifier on held-out clips: each is shown in several views, and what it says of them is averaged.

Shapes: N items, V views of each, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from umt_ds.data.evaluation import EvaluationSet
from umt_ds.distributed.world import World
from umt_ds.evaluation.encode import Encode, EncodedSet, encode_set, on_first_rank, place_of, refuse_non_finite
from umt_ds.evaluation.evaluator import Beat, Scores
from umt_ds.evaluation.metrics.classification import (
    TOP,
    confusion_matrix,
    mean_class_accuracy,
    mean_probabilities,
    ranking,
    top_accuracy,
)
from umt_ds.evaluation.said import Said, protocol_of, say_left_out

_ENCODER = "probabilities"


@dataclass(frozen=True)
class ClassificationEvaluator:
    """Satisfies `Evaluator`. logits_of: of views, [B,C], by the trained module.

    items are asked for one label field. names: of the C classes; none where nobody knows them. about: for the protocol.
    """

    name: str
    items: EvaluationSet
    logits_of: Callable[[nn.Module], Encode]
    classes: int
    names: Sequence[str] = ()
    num_workers: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)
    said: Said = field(default_factory=Said)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Accuracies in percent. top5 where it says something."""
        return ("top1", *(["top5"] if self.classes > TOP else []), "mean_class")

    @property
    def sets(self) -> Sequence[EvaluationSet]:
        return [self.items]

    def run(self, module: nn.Module, world: World, *, beat: Beat, predictions: bool = False) -> Scores:
        """See `Evaluator`. A row of the predictions is a clip: label, likeliest classes, their probabilities."""
        return self.scores(self.classify(module, world, beat=beat), world, predictions=predictions)

    def classify(self, module: nn.Module, world: World, *, beat: Beat) -> Classified:
        """What the module says of each clip, on every rank. Raises UmtError on all ranks."""
        device, precision = place_of(module)
        logits, views = self.logits_of(module), self.items.request.num_views

        def probabilities(pixels: Tensor) -> Tensor:
            return mean_probabilities(logits(pixels), views=views)

        encoded = encode_set(
            {_ENCODER: probabilities}, self.items, world, device=device, num_workers=self.num_workers, beat=beat
        )
        say_left_out(self.said, self.name, self.items, encoded.left_out)
        refuse_non_finite(
            encoded.keys, encoded.vectors[_ENCODER].isfinite().all(dim=1).tolist(), where=f"evaluation.{self.name}"
        )
        return Classified(encoded, encoded.vectors[_ENCODER], precision)

    def scores(self, found: Classified, world: World, *, predictions: bool) -> Scores:
        """Its accuracies, the same on every rank."""
        values, columns = on_first_rank(world, lambda: self._judge(found, predictions))
        return Scores(
            self.name,
            values,
            items=len(found.encoded.items),
            left_out=found.encoded.left_out,
            protocol={**protocol_of(self.items, found.encoded, precision=found.precision), **self._protocol(found)},
            predictions=columns,
        )

    def _judge(self, found: Classified, predictions: bool) -> tuple[dict[str, float], dict[str, list[Any]] | None]:
        ranked, labels = found.ranked, found.labels
        shares = {
            "top1": top_accuracy(ranked, labels, k=1),
            "top5": top_accuracy(ranked, labels, k=TOP),
            "mean_class": mean_class_accuracy(found.confusion),
        }
        values = {metric: 100 * shares[metric] for metric in self.metrics}
        return values, self._columns(found, ranked[:, :TOP]) if predictions else None

    def _columns(self, found: Classified, likeliest: Tensor) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {
            "key": list(found.encoded.keys),
            "label": found.labels.tolist(),
            "predicted": likeliest.tolist(),
            "probability": found.probabilities.gather(1, likeliest).tolist(),
        }
        if self.names:
            columns["label_name"] = [self.names[label] for label in columns["label"]]
            columns["predicted_name"] = [[self.names[one] for one in row] for row in columns["predicted"]]
        return columns

    def _protocol(self, found: Classified) -> dict[str, Any]:
        request = self.items.request
        return {
            "views": request.num_views,
            "segments": request.frames.segments,
            "crops": request.crops,
            "merge": "softmax of each view in fp32, then the mean over the views",
            "ties": "of equally likely classes the right one comes last",
            "label_field": request.label_fields[0],
            "classes": self.classes,
            "chance": {"top1": 100 * found.largest_class / len(found.labels)},
            **self.about,
        }


@dataclass(frozen=True)
class Classified:
    """What a model says of N clips: probabilities, f32 [N,C]. precision: of its weights."""

    encoded: EncodedSet
    probabilities: Tensor
    precision: str

    @cached_property
    def labels(self) -> Tensor:
        """What they are: i64 [N]."""
        return torch.tensor([item.labels[0] for item in self.encoded.items])

    @cached_property
    def ranked(self) -> Tensor:
        """The classes of each clip, the likeliest first: i64 [N,C]."""
        return ranking(self.probabilities, self.labels)

    @property
    def confusion(self) -> Tensor:
        """Clips of each class (rows) that are taken for each class: i64 [C,C]."""
        return confusion_matrix(self.labels, self.ranked[:, 0], classes=self.probabilities.shape[1])

    @property
    def largest_class(self) -> int:
        """Clips of the most common class."""
        return int(torch.bincount(self.labels).max())
