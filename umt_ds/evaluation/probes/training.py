"""Heads of a grid trained side by side on the same batches, and how often they are right.

Shapes: B clips of a batch, M clips, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umt_ds.config.probes import GridPoint, HeadGrid
from umt_ds.evaluation.encode import no_beat
from umt_ds.evaluation.evaluator import Beat
from umt_ds.evaluation.metrics.classification import TOP
from umt_ds.keyed import permutation

Rows = Callable[[Tensor], Tensor]
"""Numbers of clips, i64 [B], to their features, any float [B,…] on the CPU."""

ASKED_AT_ONCE = 256


@dataclass(frozen=True)
class LabelledClips:
    """Clips of a set with their classes. rows: features by the numbers of clips in the set. numbers: i64 [M], which of
    them. classes: i64 [M], 0 … C-1; C in a held-out set is a class that no training clip has."""

    rows: Rows
    numbers: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def some(self, places: Tensor) -> LabelledClips:
        """Those at `places`, i64 or bool [M]."""
        return LabelledClips(self.rows, self.numbers[places], self.classes[places])


def train_heads(
    heads: Sequence[nn.Module],
    points: Sequence[GridPoint],
    clips: LabelledClips,
    grid: HeadGrid,
    *,
    seed: int,
    device: torch.device,
    beat: Beat = no_beat,
) -> None:
    """Train each head with its point of the grid, in place, by cross-entropy; all see the same batches.

    AdamW, the learning rate along a cosine from the point's to 0, no decay of biases and norms; fp32 weights and loss,
    on a GPU products in bf16. `beat` after each step. A head comes out the same alone and beside others.
    """
    steps, batch = grid.steps(len(clips)), grid.batch_of(len(clips))
    optimizers = [
        torch.optim.AdamW(_groups(head.to(device).train(), point), lr=point.lr)
        for head, point in zip(heads, points, strict=True)
    ]
    for step in range(steps):
        some = clips.some(batch_places(step, batch, len(clips), seed))
        features, classes = some.rows(some.numbers).to(device), some.classes.to(device)
        share = 0.5 * (1 + math.cos(math.pi * step / steps))
        for head, point, optimizer in zip(heads, points, optimizers, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = point.lr * share
            loss = F.cross_entropy(_logits(head, features), classes)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        beat()


def batch_places(step: int, batch: int, count: int, seed: int) -> Tensor:
    """Which of `count` clips a step shows, i64 [batch]: epoch after epoch all of them in a keyed order."""
    drawn = range(step * batch, (step + 1) * batch)
    return torch.tensor([int(_order(count, seed, draw // count)[draw % count]) for draw in drawn])


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> Any:
    return permutation(count, seed, "probe", "order", epoch)


def _groups(head: nn.Module, point: GridPoint) -> list[dict[str, Any]]:
    matrices = [parameter for parameter in head.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in head.parameters() if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": point.weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _logits(head: nn.Module, features: Tensor) -> Tensor:
    """f32 [B,C]."""
    with torch.autocast(features.device.type, torch.bfloat16, enabled=features.device.type == "cuda"):
        out: Tensor = head(features)
    return out.float()


@dataclass(frozen=True)
class Hits:
    """Of `items` clips: for how many the class was the first, for how many among the first five; the mean cross-entropy
    of those whose class the head knows."""

    items: int
    top1: int
    top5: int
    loss: float

    @property
    def accuracy(self) -> float:
        return self.top1 / self.items


@torch.no_grad()
def hits_of(
    heads: Sequence[nn.Module], clips: LabelledClips, *, device: torch.device, beat: Beat = no_beat
) -> list[Hits]:
    """How often each head names the class of the clips; what is no number is never right. Equal logits: the lower
    class first. `beat` after each batch."""
    counts = torch.zeros(len(heads), 3, dtype=torch.float64)  # first, among the first five, sum of the cross-entropy
    known = 0
    for places in torch.split(torch.arange(len(clips)), ASKED_AT_ONCE):
        some = clips.some(places)
        features = some.rows(some.numbers).to(device)
        for number, head in enumerate(heads):
            logits = _logits(head.to(device).eval(), features).cpu()
            counts[number] += _counts(logits, some.classes)
        known += int((some.classes < logits.shape[1]).sum())
        beat()
    return [
        Hits(len(clips), int(top1), int(top5), loss / known if known and math.isfinite(loss) else math.inf)
        for top1, top5, loss in counts.tolist()
    ]


def _counts(logits: Tensor, classes: Tensor) -> Tensor:
    """Of the clips whose class has a logit: [B,C], i64 [B] → f64 [3]."""
    known = classes < logits.shape[1]
    logits, classes = logits[known], classes[known]
    order = logits.argsort(dim=1, descending=True, stable=True)[:, :TOP]
    right = (order == classes[:, None]) & torch.isfinite(logits).all(dim=1, keepdim=True)
    loss = F.cross_entropy(logits, classes, reduction="sum")
    return torch.stack([right[:, 0].sum().double(), right.sum().double(), loss.double()])
