"""What frozen features know: encoders as functions of pixels, and their accuracy by the vote of nearest neighbours.

Shapes: B clips, T frames, H x W pixels, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from umt_ds.classes.matching import ClassList, ClassMatch, match_classes
from umt_ds.data.clips import read_record
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.data.shards.source import ShardSource
from umt_ds.distributed.collectives import is_first_rank
from umt_ds.errors import DataError, DecodeError
from umt_ds.evaluation.bar import bar_of
from umt_ds.evaluation.encode import Encode, EncodedSet, encode_set
from umt_ds.evaluation.metrics.knn import NEIGHBOURS, TEMPERATURE, Features, chance_accuracy, knn_accuracy
from umt_ds.models.teachers import Teacher
from umt_ds.models.vit import VideoViT

log = logging.getLogger("umt_ds")

_LOOKED_AT = 8  # samples of a set, to see which labels they have


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


def labels_found(shards: Path) -> list[str]:
    """The fields that hold whole numbers (-1: no label) in the json of one of the first samples that can be read."""
    found: dict[str, None] = {}  # in the order in which they are met
    with closing(ShardSource(shards, max_open=1)) as source:
        for ref in islice(source.refs(), _LOOKED_AT):
            try:
                record = read_record(source, ref)
            except DecodeError:
                continue
            whole = (name for name, value in record.items() if isinstance(value, int) and not isinstance(value, bool))
            found |= dict.fromkeys(name for name in whole if record[name] >= 0)
    return list(found)


def label_fields(shards: Path) -> list[str]:
    """Of these fields, those to probe for: `X_label`, `appearance` and `motion` (the demo's `appearance_label`,
    `motion_label`), else `label`."""
    whole = labels_found(shards)
    aspects = [field for field in whole if field.endswith("_label") or field in ("appearance", "motion")]
    return aspects or [field for field in whole if field == "label"]


def match_sets(fields: Sequence[str], *, known: EvaluationSet, asked: EvaluationSet) -> dict[str, ClassMatch]:
    """By label field, what labels of the set `asked` are called in the set `known`. Says on the first rank what nobody
    can check. Raises DataError as `match_classes` does."""
    matches = {}
    for field in fields:
        lists = (ClassList(str(one.shards), tuple(one.manifest.class_lists.get(field, ()))) for one in (known, asked))
        match = matches[field] = match_classes(field, known=next(lists), asked=next(lists))
        if match.warning is not None and is_first_rank():
            log.warning("%s", match.warning)
    return matches


def features_of(
    encoded: EncodedSet, encoder: str, fields: Sequence[str], matches: Mapping[str, ClassMatch] | None = None
) -> Features:
    """What one encoder made of a set, with the labels that were asked for in this order. matches: what these are in
    another set. Raises DataError where a label is outside its class list."""
    labels = {
        field: renumbered([item.labels[n] for item in encoded.items], field, (matches or {}).get(field))
        for n, field in enumerate(fields)
    }
    return Features(encoded.vectors[encoder], labels, encoded.keys)


def renumbered(labels: Sequence[int], field: str, match: ClassMatch | None) -> Tensor:
    """Labels as another set calls their classes, i64 [N]; -1, which is none, stays -1."""
    if match is None or match.numbers is None:
        return torch.tensor(labels)
    if (largest := max(labels, default=-1)) >= len(match.numbers):
        raise DataError(
            f"a clip has {field} {largest}, and the class list has {len(match.numbers)} names",
            hint="make the set again with the class list of its labels",
        )
    return torch.tensor([label if label < 0 else match.numbers[label] for label in labels])


def probe_all(
    encoders: Mapping[str, Encode], train: EvaluationSet, test: EvaluationSet, *, fields: Sequence[str]
) -> ProbeResult:
    """kNN accuracy of each encoder for each of the label fields that were asked of both sets, and of chance. Raises
    DataError as `match_sets` does."""
    matches = match_sets(fields, known=train, asked=test)
    encoded = []
    for items in (train, test):
        with bar_of(items, name=f"probe {items.shards.name}") as beat:
            encoded.append(encode_set(encoders, items, beat=beat))
    accuracy: dict[str, dict[str, float]] = {}
    for name in encoders:
        known, asked = features_of(encoded[0], name, fields), features_of(encoded[1], name, fields, matches)
        accuracy[name] = {title(field): knn_accuracy(known, asked, label=field) for field in fields}
        chance = {title(field): chance_accuracy(known, asked, label=field) for field in fields}  # the same for all
    return ProbeResult({**accuracy, "chance": chance}, len(encoded[0].items), len(encoded[1].items))


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


def title(field: str) -> str:
    """A label field as tables and metrics call it."""
    return field.removesuffix("_label")
