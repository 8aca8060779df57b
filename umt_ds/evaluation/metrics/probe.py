"""What frozen features know: nearest neighbours vote on the labels of held-out clips. Nothing is trained.

    train = clip_features(pooled_student(encoder), iterate_once(shards, …, label_fields=["label"]))
    test = clip_features(pooled_student(encoder), iterate_once(held_out, …, label_fields=["label"]))
    knn_accuracy(train, test, label="label")

Shapes: B clips, T frames, H x W pixels, D width, N clips of a set, M test clips, C classes, k neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from umt_ds.data.clips import read_clip
from umt_ds.data.evaluation import EvalBatch
from umt_ds.data.shards.source import ShardSource
from umt_ds.errors import DataError
from umt_ds.models.teachers import Teacher
from umt_ds.models.vit import VideoViT

Encode = Callable[[Tensor], Tensor]
"""Pixels u8 [B,T,H,W,3] to one vector a clip, any float [B,D]."""

NEIGHBOURS, TEMPERATURE = 20, 0.07  # DINO's values
_TEST_CHUNK = 256  # test clips compared at a time: the table of similarities is [256,N]


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


@dataclass(frozen=True)
class ProbeResult:
    """accuracy: model → label → share of the test clips named rightly; the last model is `chance`."""

    accuracy: dict[str, dict[str, float]]
    train_clips: int
    test_clips: int
    k: int = NEIGHBOURS
    temperature: float = TEMPERATURE

    @property
    def labels(self) -> list[str]:
        return list(self.accuracy["chance"])


def label_fields(shards: Path) -> list[str]:
    """The fields of a sample's json to probe for: `X_label`, `appearance` and `motion` where they hold whole numbers
    (the demo's `appearance_label`, `motion_label`), else `label`. The first sample speaks for all."""
    with closing(ShardSource(shards, max_open=1)) as source:
        if len(source) == 0:
            return []
        record = read_clip(source, source.ref(0), choose=lambda _: [0], with_record=True).record
    whole = [field for field, value in record.items() if isinstance(value, int) and not isinstance(value, bool)]
    aspects = [field for field in whole if field.endswith("_label") or field in ("appearance", "motion")]
    return aspects or [field for field in whole if field == "label"]


def clip_features(encode: Encode, clips: Iterable[EvalBatch]) -> Features:
    """Encode every clip once, batch by batch. Raises DataError where there are none."""
    return all_features({"one": encode}, clips)["one"]


@torch.no_grad()
def all_features(encoders: Mapping[str, Encode], clips: Iterable[EvalBatch]) -> dict[str, Features]:
    """The features of several encoders by name, each clip read once. Raises DataError where there are no clips."""
    vectors: dict[str, list[Tensor]] = {name: [] for name in encoders}
    labels: list[dict[str, Tensor]] = []
    keys: list[str] = []
    for batch in clips:
        for name, encode in encoders.items():
            vectors[name].append(encode(batch.pixels).float().cpu())
        labels.append(batch.labels)
        keys += batch.keys
    if not keys:
        raise DataError("there are no clips to take features from", hint="look into the shards with `umt-data sheet`")
    together = {field: torch.cat([some[field] for some in labels]) for field in labels[0]}
    return {name: Features(torch.cat(parts), together, tuple(keys)) for name, parts in vectors.items()}


def knn_accuracy(
    train: Features, test: Features, *, label: str, k: int = NEIGHBOURS, temperature: float = TEMPERATURE
) -> float:
    """Share of test clips whose class wins the vote of their k most similar training clips.

    A neighbour's vote weighs exp(cosine / temperature). fp32 similarities, fp64 votes. Equal similarities go to
    the earlier training clip, equal votes to the lower class. Clips without the label are left out.
    Source: Wu et al. 2018 (arXiv:1805.01978); DINO, eval_knn.py.
    """
    known, classes = train.labelled(label)
    asked, truth = test.labelled(label)
    known, asked = F.normalize(known.float(), dim=-1), F.normalize(asked.float(), dim=-1)
    num_classes = int(classes.max()) + 1
    right = 0
    for start in range(0, len(asked), _TEST_CHUNK):
        some, answer = asked[start : start + _TEST_CHUNK], truth[start : start + _TEST_CHUNK]
        similar = some @ known.T  # [M,N]
        nearest = similar.argsort(dim=1, descending=True, stable=True)[:, :k]  # [M,k]
        weight = torch.exp((similar.gather(1, nearest).double() - 1) / temperature)
        votes = weight.new_zeros(len(some), num_classes).scatter_add_(1, classes[nearest], weight)  # [M,C]
        right += int((_first_largest(votes) == answer).sum())
    return right / len(asked)


def chance_accuracy(train: Features, test: Features, *, label: str) -> float:
    """What one reaches without looking: always the most common class of the training clips (1/C if all are equal)."""
    _, classes = train.labelled(label)
    _, truth = test.labelled(label)
    guess = int(_first_largest(classes.bincount()[None]))
    return float((truth == guess).float().mean())


def probe_all(
    encoders: Mapping[str, Encode],
    train: Iterable[EvalBatch],
    test: Iterable[EvalBatch],
    *,
    fields: Sequence[str],
) -> ProbeResult:
    """kNN accuracy of each encoder for each label field, and of chance."""
    known, asked = all_features(encoders, train), all_features(encoders, test)
    accuracy = {
        name: {_title(field): knn_accuracy(known[name], asked[name], label=field) for field in fields}
        for name in encoders
    }
    one = next(iter(encoders))  # labels are the same for all
    accuracy["chance"] = {_title(field): chance_accuracy(known[one], asked[one], label=field) for field in fields}
    return ProbeResult(accuracy, train_clips=len(known[one].keys), test_clips=len(asked[one].keys))


def pooled_student(encoder: VideoViT) -> Encode:
    """Mean over all tokens of the whole, unmasked clip, after the last norm. Leaves a training encoder training."""

    def encode(pixels: Tensor) -> Tensor:
        was_training = encoder.training
        encoder.eval()  # no drop path
        tokens: Tensor = encoder(pixels.to(next(encoder.parameters()).device)).tokens  # [B,N,D]
        encoder.train(was_training)
        return tokens.float().mean(dim=1)

    return encode


def pooled_teacher(teacher: Teacher) -> Encode:
    """Mean over the frames of the image embedding: the class token's, or the mean of all patches in towers that
    have none. What CLIP compares with captions, so the best it has to say; it knows nothing of the frames' order."""
    device = next(teacher.parameters()).device

    def encode(pixels: Tensor) -> Tensor:
        return teacher.attend(pixels.to(device)).embedding().mean(dim=1)

    return encode


def _title(field: str) -> str:
    return field.removesuffix("_label")


def _first_largest(scores: Tensor) -> Tensor:
    """The column of the highest score in each row, the lower one of equals: i64 [M]."""
    return scores.argsort(dim=1, descending=True, stable=True)[:, 0]
