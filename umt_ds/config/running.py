"""Settings of how a run is carried out: engine, cadence, what it starts from, where it logs."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from umt_ds.config.key_paths import flatten
from umt_ds.config.section import Section
from umt_ds.config.values import Count, Draw, FilePath, Place, Steps, StepsOrNone, Text


class EngineConfig(Section):
    """The DeepSpeed JSON owns ZeRO, precision, offload and communication; this names it."""

    deepspeed: Place = Field(description="a file of ds_configs/ by its name alone, or a path such as ./mine.json")
    compile: bool = Field(False, description="torch.compile for the blocks of student and teacher; not at ZeRO stage 3")
    graph: bool = Field(False, description="replay the teacher as a CUDA graph: pays where its kernels are small")
    ahead: bool = Field(False, description="teacher of the next batch beside the student of this one; takes memory")
    deepspeed_set: dict[Text, bool | Draw | float | Text] = Field(
        {}, description="overrides in the JSON by dotted key, e.g. {zero_optimization.stage: 2}"
    )

    @field_validator("deepspeed_set", mode="before")
    @classmethod
    def _dotted(cls, settings: Any) -> Any:
        """`engine.deepspeed_set.zero_optimization.stage=2` on the command line arrives as nested mappings."""
        return flatten(settings) if isinstance(settings, dict) else settings


class CadenceConfig(Section):
    """How often things happen: in optimiser steps, the watchdog's in seconds."""

    log: Steps = 20
    save: Steps = 1000
    keep: Count = Field(3, description="newest checkpoints kept")
    evaluate: StepsOrNone = Field(
        0,
        description="run the evaluations of the run after so many steps and at the end, each time after a save; a run "
        "that starts from init.weights is evaluated before its first step too; 0: never",
    )
    keep_best: Text | None = Field(
        None,
        description="also keep the checkpoint that is best in NAME/METRIC, such as knn/label of evaluation.knn: it is "
        "named in RUN/checkpoints/BEST",
    )
    max_skipped: StepsOrNone = Field(
        0,
        description="steps of the whole run that may be left out because their gradient is NaN or infinite (it never "
        "reaches the weights); one more ends the job with 75, and with 1 where the same step fails again",
    )
    async_save: bool = Field(True, description="train on while a checkpoint is written, from a copy in RAM")
    # far below the time after which torch ends a waiting collective itself, with an exit code that nobody restarts
    # (`distributed/job.py`)
    watchdog: float = Field(
        540,
        ge=0,
        le=1e7,
        description="seconds without progress after which a rank says where it stands and exits with 75; to wait for a "
        "store that is away is no hang; 0: off",
    )


class InitConfig(Section):
    """Where weights come from when the run folder has no checkpoint of its own."""

    resume_from: FilePath | None = Field(
        None, description="another run or checkpoint folder: continue it, state and all"
    )
    weights: FilePath | None = Field(None, description="weights only: a file, model, checkpoint or run folder")
    ema: bool = Field(False, description="of a run or checkpoint folder, take the averaged weights (optim.ema_decay)")


class ReportConfig(Section):
    """Where the log goes besides the console and metrics.jsonl."""

    tensorboard: bool = True
    wandb: Text | None = Field(None, description="W&B project name")
