"""What several tasks are judged by: from the settings of an evaluation to the evaluator that a room gives."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from umt_ds.classes.matching import ClassMatch
from umt_ds.config.data import SourceConfig
from umt_ds.config.evaluation import EvaluationConfig, KnnEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.data.order.views import FrameRule
from umt_ds.data.shards.storage import as_path, is_local
from umt_ds.data.shards.stream import Tars
from umt_ds.distributed.collectives import broadcast_object, is_first_rank
from umt_ds.errors import ConfigError, DataError, UmtError
from umt_ds.evaluation.encode import Encode
from umt_ds.evaluation.frozen_features import label_fields, labels_found, match_sets
from umt_ds.evaluation.knn import KnnEvaluator
from umt_ds.tasks.sources import build_cache, first_clips, shards_of

log = logging.getLogger("umt_ds")


def knn_evaluator(
    name: str,
    settings: KnnEvaluation,
    run: RunConfig,
    *,
    encoder_of: Callable[[nn.Module], Encode],
    features: str = "mean of all tokens of the unmasked clip, after the last norm",
) -> KnnEvaluator:
    """A vote of the clips of `voters` on those of `shards`, both seen as the run's encoder sees clips: in its number of
    frames and its side, the centre of each, without a mask. features: what the encoder gives, for the protocol.

    Raises ConfigError where the sets lack labels that are named, or nobody can vote; DataError for what is no set.
    """
    shards = as_path(settings.shards)
    fields, remark = _labels(name, settings, run, shards)
    frames, side = run.task.clip_shape

    def request(*, needs_labels: bool) -> ClipRequest:
        return ClipRequest(
            frames=middle_frames(frames),
            side=side,
            antialias=run.data.augment.antialias,
            label_fields=fields,
            needs_labels=needs_labels,
        )

    held_out = evaluation_set(name, shards, request(needs_labels=True), settings, run)
    voters, matches = None, {}
    if fields:  # a clip without a label does not vote, which is no fault of it
        voters = evaluation_set(name, _voters(name, settings, run), request(needs_labels=False), settings, run)
        matches = _matches(name, fields, voters=voters, held_out=held_out)
    about: dict[str, Any] = {"features": features}
    about |= {"labels_matched": {field: match.way for field, match in matches.items()}} if matches else {}
    return KnnEvaluator(
        name,
        held_out,
        voters,
        encoder_of,
        matches,
        neighbours=settings.neighbours,
        temperature=settings.temperature,
        num_workers=run.data.workers,
        about=about | ({"remark": remark} if remark else {}) | trained_on(name, held_out, run),
    )


def evaluation_set(
    name: str, shards: Path, request: ClipRequest, settings: EvaluationConfig, run: RunConfig
) -> EvaluationSet:
    """The set in `shards`, read as the run's own clips are. Raises DataError for what is no set, ConfigError for one
    that does not store the frames of a published rule: before a run trains for hours to its first evaluation."""
    items = EvaluationSet(
        shards,
        request,
        batch_size=settings.clips_a_pass,
        limit=settings.limit,
        max_left_out=settings.max_left_out,
        cache=None if is_local(shards) else build_cache(run.data.cache),
        look=is_first_rank(),
    )
    if isinstance(request.frames.choose, FrameRule):
        try:
            items.try_first()
        except DataError as error:
            raise ConfigError(f"evaluation.{name}.shards: {error.what}", hint=error.hint) from error
    return items


def trained_on(name: str, items: EvaluationSet, run: RunConfig) -> dict[str, Any]:
    """For the protocol: the share of the items that the run trains on, by source, in percent; with a warning where it
    is not 0. None of a source that is streamed, or is not here. Every rank calls it, the first one looks."""
    shares = percent_trained_on(items, run) if is_first_rank() else {}
    for source, share in shares.items():
        if share:
            log.warning(
                "evaluation.%s: %.3g %% of its clips (%s) are clips of data.sources.%s, which the run trains on, so "
                "its scores say little of new clips: name other shards",
                name, share, items.shards, source,
            )  # fmt: skip
    return {"percent_trained_on": broadcast_object(shares)}


def percent_trained_on(items: EvaluationSet, run: RunConfig) -> dict[str, float | None]:
    """The share of the items that the run trains on, by source; None of one that is streamed, or is not here."""
    return {source: _share(items, settings) for source, settings in run.data.sources.items()}


def _share(items: EvaluationSet, source: SourceConfig) -> float | None:
    try:
        shards = shards_of(source)
        return None if isinstance(shards, Tars) else 100 * items.shared_with(shards) / max(len(items), 1)
    except UmtError:  # a run may be judged where its training data are not, nor the library for their store
        return None


def _labels(name: str, settings: KnnEvaluation, run: RunConfig, shards: Path) -> tuple[Sequence[str], str | None]:
    """The label fields to vote on; and, where labels of the held-out clips are not among them, why."""
    at = f"evaluation.{name}"
    if settings.labels:
        for one in (shards, _voters(name, settings, run)):
            found = labels_found(one)
            if missing := [field for field in settings.labels if field not in found]:
                raise ConfigError(
                    f"{at}.labels: the clips of {one} have no label {missing[0]!r}",
                    hint=f"fields with whole numbers there: {', '.join(found) or 'none'}; without labels "
                    f"(leave {at}.labels out) there is RankMe",
                )
        return settings.labels, None
    fields = label_fields(shards)
    if not fields:
        return (), _remark(at, f"the clips of {shards} have no labels: no kNN accuracy, RankMe alone")
    voters = _voters(name, settings, run)
    known = labels_found(voters)
    both = [field for field in fields if field in known]
    if not both:
        why = f"the clips of {voters}, which would vote, have no label {fields[0]!r}"
        return (), _remark(at, f"{why}: no kNN accuracy, RankMe alone")
    lacking = [repr(field) for field in fields if field not in known]
    why = f"the clips of {voters}, which vote, have no label {', '.join(lacking)}: no kNN accuracy of it"
    return both, _remark(at, why) if lacking else None


def _matches(
    name: str, fields: Sequence[str], *, voters: EvaluationSet, held_out: EvaluationSet
) -> dict[str, ClassMatch]:
    """As `match_sets`, but a class of held-out clips that is none of those that vote is a ConfigError."""
    try:
        return match_sets(fields, known=voters, asked=held_out)
    except DataError as error:
        raise ConfigError(
            f"evaluation.{name}: {error.what}, whose clips vote",
            hint=f"evaluation.{name}.voters=SHARDS names labelled shards of the same classes",
        ) from error


def _remark(at: str, remark: str) -> str:
    """The remark on labels that are not voted on, said once."""
    if is_first_rank():
        log.warning("%s: %s", at, remark)
    return remark


def _voters(name: str, settings: KnnEvaluation, run: RunConfig) -> Path:
    """The shards whose clips vote. Raises ConfigError where they would be the run's own and are streamed."""
    if settings.voters is not None:
        return as_path(settings.voters)
    shards = shards_of(first_clips(run))
    if isinstance(shards, Tars):
        raise ConfigError(
            f"evaluation.{name}.voters: the run's own clips are streamed, and cannot vote",
            hint=f"evaluation.{name}.voters=SHARDS names indexed shards with labels",
        )
    return shards
