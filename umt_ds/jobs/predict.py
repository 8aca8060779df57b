"""`umt predict`: what a trained model says of video files. One process; a video at a time goes through the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from umt_ds.classes import are_names
from umt_ds.data.video_clips import clip_of_video
from umt_ds.distributed.device import device_of
from umt_ds.distributed.world import World
from umt_ds.engine.manifest import versions
from umt_ds.errors import DecodeError, printable
from umt_ds.evaluation.prediction import Asked, Prediction, number_text, refuse_no_numbers
from umt_ds.evaluation.said import VIEWS
from umt_ds.jobs.eval_runs import EvalRun
from umt_ds.jobs.evaluate import name_of, step_scored
from umt_ds.jobs.predict_input import class_names
from umt_ds.jobs.trained import TrainedModel
from umt_ds.tasks.kinds import predictor_of
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
    """The model of a run and what it is asked; it is loaded before its first answer. classes: names of its classes, see
    `class_names`. averaged: whether the moving average of its weights answers; None: as its evaluations judge it.

    Raises UmtError for a run that cannot say what is asked, before anything is loaded.
    """

    def __init__(self, run: EvalRun, asked: Asked, *, classes: str | None = None, averaged: bool | None = None) -> None:
        names = class_names(classes, known=run.classes, are_named=are_names(run.classes))
        given = names if classes is not None else ()
        self._predictor = predictor_of(run.config, replace(asked, classes=given), names)
        is_averaged = self._predictor.averaged if averaged is None else averaged
        self._trained = TrainedModel(run, names, is_averaged, device_of(World.alone()))

    def predict(self, videos: Sequence[Path]) -> Iterator[PredictedVideo]:
        """One video after another; of a file that is no video, or is damaged, why. Raises CheckpointError, WeightsError
        and NonFiniteError."""
        say = self._predictor.of(self._trained.module)
        for video in videos:
            try:
                clip = clip_of_video(video, self._predictor.request)
            except (DecodeError, OSError) as error:
                yield PredictedVideo(video, error=error.what if isinstance(error, DecodeError) else str(error))
                continue
            predictions = tuple(say(clip.views))
            refuse_no_numbers(predictions, of=str(video))
            yield PredictedVideo(video, predictions, clip.span_s, clip.views[len(clip.views) // 2])

    def about(self) -> dict[str, Any]:
        """What one must know to get the same answers; JSON types."""
        trained, request = self._trained, self._predictor.request
        run = trained.run
        return {
            "format": FORMAT,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "device": name_of(trained.device),
            "run": run.name,
            "name": run.config.name,
            "task": run.config.task.kind,
            "weights": str(run.weights),
            "step": step_scored(run),
            "averaged": trained.averaged,
            "fingerprint": trained.fingerprint,
            "precision": trained.precision,
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
