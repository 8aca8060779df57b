"""`umt predict`: what a trained model says of video files. One process; a video at a time goes through the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from umt_ds.classes import are_names
from umt_ds.config.deepspeed_json import Precision, load_deepspeed_json, precision_of
from umt_ds.data.video_clips import clip_of_video
from umt_ds.distributed.device import device_of
from umt_ds.distributed.world import World
from umt_ds.engine.manifest import versions
from umt_ds.errors import DecodeError, NonFiniteError, printable
from umt_ds.evaluation.prediction import Asked, Prediction, number_text
from umt_ds.evaluation.said import VIEWS
from umt_ds.jobs.eval_runs import EvalRun
from umt_ds.jobs.evaluate import as_trained, load_scored, name_of, step_scored, verify_checkpoints
from umt_ds.jobs.predict_input import class_names
from umt_ds.tasks.initial import state_fingerprint
from umt_ds.tasks.kinds import build_task, predictor_of
from umt_ds.terminal import columns

FORMAT = 1  # of the JSON; umt_ds/README.md describes it


@dataclass(frozen=True)
class PredictedVideo:
    """What is said of a video, or why nothing is. span_s: the seconds that were looked at. frames: u8 [T,side,side,3],
    of the view in the middle."""

    video: Path
    predictions: tuple[Prediction, ...] = ()
    span_s: tuple[float, float] | None = None
    frames: Tensor | None = None
    error: str | None = None


class Model:
    """The model of a run, which is loaded before its first answer. classes: names of its classes, see `class_names`.
    averaged: whether the moving average of its weights answers; None: as its evaluations judge it.

    Raises UmtError for a run that cannot say what is asked, before anything is loaded.
    """

    def __init__(self, run: EvalRun, asked: Asked, *, classes: str | None = None, averaged: bool | None = None) -> None:
        self.run = run
        self._names = class_names(classes, known=run.classes, are_named=are_names(run.classes))
        given = self._names if classes is not None else ()
        self._predictor = predictor_of(run.config, replace(asked, classes=given), self._names)
        self._averaged = self._predictor.averaged if averaged is None else averaged
        self._precision: Precision = precision_of(load_deepspeed_json(run.config.engine))
        self._device = device_of(World.alone())

    def predict(self, videos: Sequence[Path]) -> Iterator[PredictedVideo]:
        """One video after another; of a file that is no video, or is damaged, why. Raises CheckpointError, WeightsError
        and NonFiniteError."""
        say = self._predictor.of(self._module)
        for video in videos:
            try:
                clip = clip_of_video(video, self._predictor.request)
            except (DecodeError, OSError) as error:
                yield PredictedVideo(video, error=error.what if isinstance(error, DecodeError) else str(error))
                continue
            predictions = tuple(say(clip.views))
            _refuse_non_finite(predictions, video)
            yield PredictedVideo(video, predictions, clip.span_s, clip.views[len(clip.views) // 2])

    @property
    def _module(self) -> nn.Module:
        """In evaluation mode, in the precision in which it was trained."""
        return self._loaded[0]

    @cached_property
    def _loaded(self) -> tuple[nn.Module, str]:
        """The module, and the fingerprint of its weights."""
        verify_checkpoints([self.run])
        task = build_task(self.run.config, device=self._device, precision=self._precision, classes=self._names)
        load_scored(task, self.run, averaged=self._averaged, judged=self.run.config.task.judged_by)
        fingerprint = state_fingerprint(task.module.state_dict())
        return as_trained(task.module, self._precision).to(self._device).eval(), fingerprint

    def about(self) -> dict[str, Any]:
        """What one must know to get the same answers; JSON types."""
        request, config = self._predictor.request, self.run.config
        return {
            "format": FORMAT,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "device": name_of(self._device),
            "run": self.run.name,
            "name": config.name,
            "task": config.task.kind,
            "weights": str(self.run.weights),
            "step": step_scored(self.run),
            "averaged": self._averaged,
            "fingerprint": self._loaded[1],
            "precision": self._precision,
            "protocol": {
                "frames": request.frames.text,
                "num_frames": request.frames.count,
                "views": request.num_views,
                "view": VIEWS[request.view],
                "side": request.side,
                "antialias": request.antialias,
            },
        }


def as_document(model: Model, told: Sequence[PredictedVideo]) -> dict[str, Any]:
    """All that was said, and by what; JSON types. umt_ds/README.md describes it."""
    return {**model.about(), "videos": [_as_json(one) for one in told]}


def _as_json(one: PredictedVideo) -> dict[str, Any]:
    """Of JSON types."""
    said = [
        {"question": each.question, "choices": [{"text": choice.text, **choice.numbers} for choice in each.choices]}
        for each in one.predictions
    ]
    return {"video": str(one.video), "span_s": one.span_s, "predictions": said, "error": one.error}


def as_text(one: PredictedVideo) -> str:
    """A table for each prediction, under the name of the video."""
    return "\n".join(columns(_rows(str(one.video), each)) for each in one.predictions)


def _rows(video: str, said: Prediction) -> list[list[str]]:
    name = printable(video if said.question is None else f"{video}: {said.question}")
    kinds = list(said.choices[0].numbers) if said.choices else []
    return [
        [name, *kinds],
        *(
            [f"  {printable(choice.text)}", *(number_text(kind, choice.numbers[kind]) for kind in kinds)]
            for choice in said.choices
        ),
    ]


def _refuse_non_finite(predictions: Sequence[Prediction], video: Path) -> None:
    numbers = [number for said in predictions for choice in said.choices for number in choice.numbers.values()]
    if not all(map(math.isfinite, numbers)):
        raise NonFiniteError(
            f"what the model says of {video} is not a number",
            hint="the weights or the activations have left the range of their precision: ask another checkpoint",
            again=True,
        )
