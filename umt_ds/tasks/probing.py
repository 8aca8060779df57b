"""What `umt probe` asks of two sets for a run: clips as the run's encoder sees them, label fields, classes by name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from umt_ds.classes import are_names
from umt_ds.config.probes import ProbeSettings
from umt_ds.config.run import RunConfig
from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.data.shards.storage import is_local
from umt_ds.errors import ConfigError, DataError
from umt_ds.evaluation.embedding import Embedder
from umt_ds.evaluation.encode import Encode
from umt_ds.evaluation.frozen_features import label_fields, labels_found
from umt_ds.evaluation.probes.labels import SetLabels, match_labels
from umt_ds.models.vit import VideoViT
from umt_ds.tasks.sources import build_cache

log = logging.getLogger("umt_ds")


def probed_fields(train: Path, val: Path, asked: Sequence[str]) -> list[str]:
    """The label fields to probe for: those that are asked for, else those of the training set (`X_label`, or `label`)
    that both have. Raises ConfigError for one that a set lacks, DataError where there is none."""
    for shards in (train, val) if asked else ():
        found = labels_found(shards)
        if missing := [field for field in asked if field not in found]:
            raise ConfigError(
                f"--label {missing[0]}: the clips of {shards} have no such label",
                hint=f"fields with whole numbers there: {', '.join(found) or 'none'}",
            )
    if asked:
        return list(dict.fromkeys(asked))
    of_val = labels_found(val)
    both = [field for field in label_fields(train) if field in of_val]
    if not both:
        lacking = train if not label_fields(train) else val
        raise DataError(
            f"the clips of {lacking} have no labels to probe for",
            hint="write the shards with labels (umt-data … --labels); or name the field of their json with --label",
        )
    return both


def match_probed(fields: Sequence[str], *, train: EvaluationSet, val: EvaluationSet) -> dict[str, str]:
    """By what the labels of each field are matched in both sets (`ClassMatch.way`), by the json of all clips. Logs what
    nobody can check. Raises DataError as `match_labels` and `EvaluationSet.try_records` do."""
    of_train, of_val = train.try_records(), val.try_records()
    ways = {}
    for field in fields:
        match = match_labels(field, labels_of(of_train, train, field), labels_of(of_val, val, field))
        ways[field] = match.way
        if match.warning is not None:
            log.warning("%s", match.warning)
    return ways


def probed_request(run: RunConfig) -> ClipRequest:
    """A clip as a frozen encoder is shown it: as many frames as it learned with, the middle ones, and their centre."""
    frames, side = run.task.clip_shape
    return ClipRequest(middle_frames(frames), side, antialias=run.data.augment.antialias)


def feature_embedder(
    run: RunConfig,
    encoder: VideoViT,
    encode: Encode,
    *,
    features: str = "mean of all tokens of the clip, after the last norm",
) -> Embedder:
    """How a run whose vectors have no space in common with texts makes them. encode: u8 [B,T,side,side,3] to [B,D]."""

    def clips(pixels: Tensor) -> Tensor:
        return encode(pixels).float().cpu()

    return Embedder(probed_request(run), clips, features, encoder)


def probed_set(shards: Path, run: RunConfig, settings: ProbeSettings) -> EvaluationSet:
    """The clips of a set as the run's encoder sees them: its number of frames and its side, the middle frames, the
    centre. With all labels that the first clips have, so that what is stored of them serves every probe."""
    return EvaluationSet(
        shards,
        replace(probed_request(run), label_fields=tuple(labels_found(shards))),
        batch_size=settings.clips_at_once,
        limit=settings.limit,
        max_left_out=settings.max_left_out,
        cache=None if is_local(shards) else build_cache(run.data.cache),
    )


def labels_of(labels: Sequence[Sequence[int]], clips: EvaluationSet, field: str) -> SetLabels:
    """The labels in one field, with the names of the classes where the set has some: one that was made of bare numbers
    calls its classes 0, 1, … labels: of each clip those in all fields that are asked for."""
    place = list(clips.request.label_fields).index(field)
    listed = clips.manifest.class_lists.get(field, ())
    names = tuple(listed) if are_names(listed) else ()
    return SetLabels(str(clips.shards), torch.tensor([of_clip[place] for of_clip in labels]), names)
