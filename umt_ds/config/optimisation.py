"""Settings of the optimisation: batch, AdamW, schedule."""

from __future__ import annotations

import math
from typing import Annotated, Literal, assert_never

from pydantic import Field, ValidationInfo, field_validator, model_validator

from umt_ds.config.section import RUNNING, Section
from umt_ds.config.values import Clips, Count, PartBelowOne, Positive, PositiveOrNone, Steps, StepsOrNone


class BatchConfig(Section):
    """`global` clips are drawn for one optimiser step, `micro` at a time on each rank."""

    global_: Clips = Field(alias="global")
    micro: Annotated[Clips, RUNNING]
    media: Literal["alternate", "packed"] = Field(
        "alternate",
        description="sources of images and of clips: one medium a step, as published, or both in each batch",
    )
    pack: Count = Field(16, description="packed: so many draws hold whole shares of both media; divides micro")
    split_contrastive: Annotated[bool, RUNNING] = Field(
        False, description="a rank's whole share of a step is compared at once, `micro` rows in memory at a time"
    )


class OptimConfig(Section):
    """AdamW. With lr_rule per_256 lr, min_lr and warmup_lr are per 256 views of the global batch.

    Source: METHOD.md, "Optimisation: stage 1", "Optimisation: stage 2", "Optimisation: recognition".
    """

    lr: Positive
    lr_rule: Literal["per_256", "absolute"]
    min_lr: PositiveOrNone = 0.0
    warmup_lr: PositiveOrNone = Field(
        0.0,
        description="where the warm-up begins (but for schedule.curve=cosine_floor), scaled as lr is (fine-tuning: "
        "1e-6)",
    )
    betas: tuple[PartBelowOne, PartBelowOne] = (0.9, 0.95)
    eps: float = Field(1e-8, ge=1e-30, le=1)
    weight_decay: PositiveOrNone = 0.05
    clip_grad: Positive | None = Field(None, description="largest gradient norm; null: no clipping")
    layer_decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="fine-tuning only: each layer learns at this rate times that of the layer after it; the head at lr",
    )
    ema_decay: PartBelowOne | None = Field(
        None,
        description="also keep an exponential moving average of the weights: after each step, this part of it and the "
        "rest of the new weights (0.9999); evaluation.NAME.ema judges it",
    )

    @field_validator("min_lr", "warmup_lr")
    @classmethod
    def _below_lr(cls, rate: float, info: ValidationInfo) -> float:
        if rate > info.data.get("lr", rate):
            turn = "rise" if info.field_name == "min_lr" else "fall in the warm-up"
            raise ValueError(f"it is above lr, which is {info.data['lr']}: the learning rate would {turn}")
        return rate


LrCurve = Literal["cosine_offset", "cosine_floor", "wsd", "constant"]


class ScheduleConfig(Section):
    """Length of the run, in epochs of all sources together or in optimiser steps; the curve of its learning rate."""

    # the default is what runs had before there was a choice: their config.yaml keeps its meaning
    curve: LrCurve = Field(
        "cosine_offset",
        description="cosine_offset: from warmup_lr to lr, and down to min_lr (stage 1, fine-tuning); cosine_floor: "
        "down to 0, but never below min_lr, where it starts too (stage 2); wsd: warm-up, lr, and in the last "
        "decay_steps (or decay_epochs) straight down to min_lr; constant: warm-up, then lr. A run of the "
        "last two can be made longer. Formulas: umt_ds/engine/schedule.py",
    )

    epochs: Positive | None = Field(None, le=1e6)
    warmup_epochs: PositiveOrNone | None = Field(None, le=1e6)
    decay_epochs: Positive | None = Field(None, le=1e6, description="wsd only: the last so many fall to min_lr")
    steps: Steps | None = None
    warmup_steps: StepsOrNone | None = None
    decay_steps: Steps | None = Field(None, description="wsd only: the last so many fall to min_lr")

    @model_validator(mode="after")
    def _one_unit(self) -> ScheduleConfig:
        of_steps = self.warmup_steps, self.decay_steps
        of_epochs = self.warmup_epochs, self.decay_epochs
        in_epochs = self.epochs is not None and self.steps is None and of_steps == (None, None)
        in_steps = self.steps is not None and self.epochs is None and of_epochs == (None, None)
        if not (in_epochs or in_steps):
            if (self.decay_epochs, self.decay_steps) != (None, None):
                raise ValueError("give epochs, warmup_epochs and decay_epochs, or steps, warmup_steps and decay_steps")
            raise ValueError("give epochs and warmup_epochs, or steps and warmup_steps")
        return self

    @model_validator(mode="after")
    def _decay_of_wsd(self) -> ScheduleConfig:
        unit = "epochs" if self.steps is None else "steps"
        decay = self.decay_epochs if self.steps is None else self.decay_steps
        if self.curve == "wsd" and decay is None:
            raise ValueError(f"curve: wsd falls in the last decay_{unit}, which is not given")
        if self.curve != "wsd" and decay is not None:
            raise ValueError(f"decay_{unit} is for curve: wsd, and curve is {self.curve}")
        return self

    def is_same_until(self, other: ScheduleConfig, step: int) -> bool:
        """Whether it is plain that all steps before `step` have the same learning rates under both, where the sections
        optim and batch are equal. Of runs in epochs it is not: that depends on the length of an epoch."""
        if self.steps is None or other.steps is None:
            return False
        warm_up_alike = (self.curve == "cosine_floor") == (other.curve == "cosine_floor")
        if not warm_up_alike or (self.warmup_steps or 0) != (other.warmup_steps or 0):
            return False
        return step <= min(self._known_until(self.steps), other._known_until(other.steps))

    def _known_until(self, steps: int) -> float:
        """The first step whose learning rate depends on the length of the run."""
        match self.curve:
            case "constant":
                return math.inf
            case "wsd":
                return steps - (self.decay_steps or 0)
            case "cosine_offset" | "cosine_floor":
                return self.warmup_steps or 0
            case _:
                assert_never(self.curve)
