"""A stage-1 run under the lens: its student as it began and as it is, its teacher, and held-out clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.stage1 import Stage1Config
from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.data.shards.storage import absolute
from umt_ds.engine.manifest import resolve_checkpoint
from umt_ds.errors import ConfigError, DataError, UmtError
from umt_ds.evaluation.encode import Encode
from umt_ds.evaluation.exhibits import Exhibit, KnnProbe, MaskedClips, or_why_not
from umt_ds.evaluation.frozen_features import label_fields, pooled_student, pooled_teacher, probe_all
from umt_ds.evaluation.masked import masked_clips
from umt_ds.masking import MaskPlan
from umt_ds.models.teachers import Teacher
from umt_ds.models.vit import VideoViT
from umt_ds.tasks.encoders import size_of
from umt_ds.tasks.initial import read_weights
from umt_ds.tasks.room import Say
from umt_ds.tasks.sources import held_out_beside, training_shards
from umt_ds.tasks.teacher import load_teacher
from umt_ds.weights.load import load_strict
from umt_ds.weights.published import encoder_state

_BATCH = 4  # clips encoded at a time: larger ones do not fit a CPU's cache


@dataclass(frozen=True)
class Stage1Probe:
    """A stage-1 run. train, val: labelled shards; None for the run's own, and the folder `val` beside them.

    Every method raises UmtError where what it needs is not there.
    """

    run: Path
    config: RunConfig
    task: Stage1Config
    train: Path | None
    val: Path | None
    max_clips: int

    @property
    def training_shards(self) -> Path:
        if self.train is not None:
            return self.train
        return training_shards(self.config, hint="name labelled shards: --train, --val")

    @property
    def held_out_shards(self) -> Path:
        train = self.training_shards
        val = self.val or held_out_beside(train, ["val"], hint="name labelled shards with --val SHARDS")
        if absolute(train) == absolute(val):
            raise ConfigError(f"{train} cannot be training and held-out clips at once", hint="--val OTHER_SHARDS")
        return val

    @cached_property
    def teacher(self) -> Teacher:
        return load_teacher(self.task.teacher)[0].to(_device())

    @property
    def mask(self) -> MaskPlan:
        return MaskPlan(self.task.mask.kind, self.task.mask.ratio)

    def untrained(self) -> VideoViT:
        """The student as the run began: the seed alone decides it."""
        torch.manual_seed(self.config.seed)  # as `tasks.stage1` does
        return VideoViT(size_of(self.task.student)).to(_device())

    def trained(self) -> VideoViT:
        """The student of the newest checkpoint."""
        encoder = self.untrained()
        load_strict(encoder, encoder_state(read_weights(self.run)), where=str(self.run))
        return encoder

    def masked_clips(self) -> Exhibit:
        """Some held-out clips under the run's mask."""
        return or_why_not("What the student sees", self._masked_clips)

    def _masked_clips(self) -> MaskedClips:
        student = self.task.student
        clips = masked_clips(
            self.held_out_shards,
            self.teacher,
            self.mask,
            frames=student.frames,
            side=student.image_size,
            antialias=self.config.data.augment.antialias,
            seed=self.config.seed,
        )
        rows, cols = clips[0].grid
        return MaskedClips(clips, self.mask.kind, self.mask.visible(student.frames, rows * cols))

    def probe(self, say: Say) -> Exhibit:
        """kNN accuracy of trained student, untrained student, teacher (where it can be loaded), and chance."""
        return or_why_not("What the features know", lambda: self._probe(say))

    def _probe(self, say: Say) -> KnnProbe:
        train, val = self.training_shards, self.held_out_shards
        fields = label_fields(train)
        if not fields:
            raise DataError(f"the clips of {train} have no labels", hint="name labelled shards: --train, --val")
        encoders: dict[str, Encode] = {
            "trained student": pooled_student(self.trained()),
            "untrained student": pooled_student(self.untrained()),
        }
        try:
            encoders["teacher"] = pooled_teacher(self.teacher)
        except UmtError as error:
            say(f"without the teacher: {error}")
        result = probe_all(encoders, self._clips(train, fields), self._clips(val, fields), fields=fields)
        where = {"checkpoint": str(resolve_checkpoint(self.run)), "train": str(train), "val": str(val)}
        return KnnProbe(result, where)

    def _clips(self, shards: Path, fields: Sequence[str]) -> EvaluationSet:
        """The first `max_clips` clips: shards lie in hashed order, so these are a fair sample of all."""
        student = self.task.student
        request = ClipRequest(
            frames=middle_frames(student.frames),
            side=student.image_size,
            antialias=self.config.data.augment.antialias,
            label_fields=fields,
        )
        return EvaluationSet(shards, request, batch_size=_BATCH, limit=self.max_clips)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
