"""The settings of one run: the sections of the other modules together, and what they must not say at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from umt_ds.config.data import DataConfig
from umt_ds.config.evaluation import EvaluationConfig
from umt_ds.config.lone_rows import refuse_lone_rows
from umt_ds.config.optimisation import BatchConfig, OptimConfig, ScheduleConfig
from umt_ds.config.running import CadenceConfig, EngineConfig, InitConfig, ReportConfig
from umt_ds.config.section import RUNNING, Section
from umt_ds.config.segments import refuse_odd_segments
from umt_ds.config.tasks import TaskConfig
from umt_ds.config.tasks.base import Remarks
from umt_ds.config.values import FilePath, Name, Steps
from umt_ds.errors import ConfigError, some


class RunConfig(Section):
    """One run, whole."""

    name: Annotated[Name, RUNNING] = Field(description="of the run and its folder")
    run_dir: Annotated[FilePath | None, RUNNING] = Field(None, description="run folder; default: runs/NAME")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="of everything random")
    task: TaskConfig
    data: DataConfig
    batch: BatchConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    engine: Annotated[EngineConfig, RUNNING]
    cadence: Annotated[CadenceConfig, RUNNING] = CadenceConfig()
    init: Annotated[InitConfig, RUNNING] = InitConfig()
    report: Annotated[ReportConfig, RUNNING] = ReportConfig()
    evaluation: Annotated[dict[Name, EvaluationConfig], RUNNING] = Field(
        {}, description="what it is judged by, by a name of your own; when: cadence.evaluate"
    )
    stop_at: Annotated[Steps | None, RUNNING] = Field(None, description="stop, resumable, after this step")

    @model_validator(mode="after")
    def _belongs_together(self) -> RunConfig:
        for key, why in _meaningless(self):
            # no ValueError, which pydantic would blame on the whole run: the key is known here
            raise ConfigError(f"{key}: {why}", hint=f"leave {key} out, or at its default")
        refuse_odd_segments(self)
        _refuse_foreign_evaluations(self)
        _refuse_average_of_nothing(self)
        _refuse_best_of_nothing(self)
        most = self.batch.global_ if self.batch.split_contrastive else self.batch.micro
        refuse_lone_rows(self.task, of_rank=most, of_all=self.batch.global_)
        return self

    @property
    def folder(self) -> Path:
        """The run folder: `run_dir`, or runs/NAME under the current directory."""
        return self.run_dir if self.run_dir is not None else Path("runs") / self.name

    @property
    def evaluations_in_training(self) -> dict[str, EvaluationConfig]:
        """Those that are made after every `cadence.evaluate` steps. `umt eval` makes the others, too."""
        return {name: settings for name, settings in self.evaluation.items() if settings.in_training}


def _refuse_foreign_evaluations(run: RunConfig) -> None:
    """A run is judged by what its task can be judged by."""
    for name, settings in run.evaluation.items():
        if settings.kind not in run.task.judged_by:
            judges = some(run.task.judged_by) if run.task.judged_by else "no evaluation"
            raise ConfigError(
                f"evaluation.{name}.kind: a run of task.kind {run.task.kind} is judged by {judges}, "
                f"not by {settings.kind}",
                hint=f"leave evaluation.{name} away; an inherited one is dropped by evaluation.{name}=null",
            )


def _refuse_average_of_nothing(run: RunConfig) -> None:
    """An evaluation of averaged weights wants a run that keeps them."""
    for name, settings in run.evaluation.items():
        if settings.ema and run.optim.ema_decay is None:
            raise ConfigError(
                f"evaluation.{name}.ema: this run keeps no average of its weights",
                hint="set optim.ema_decay=0.9999, or leave it out",
            )


def _refuse_best_of_nothing(run: RunConfig) -> None:
    """`cadence.keep_best` names an evaluation that this run makes. Which metrics it has is known when it is built."""
    cadence, in_training = run.cadence, run.evaluations_in_training
    if cadence.keep_best is None:
        return
    name, _, metric = cadence.keep_best.partition("/")
    if name in run.evaluation and name not in in_training:
        raise ConfigError(
            f"cadence.keep_best: {cadence.keep_best} is never measured, because evaluation.{name}.in_training is false",
            hint=f"leave it out, or set evaluation.{name}.in_training=true",
        )
    if name not in in_training or not metric:
        told = some(in_training) if in_training else "none"
        raise ConfigError(
            f"cadence.keep_best: {cadence.keep_best} is no NAME/METRIC of an evaluation of this run (it has {told})",
            hint="leave it out, or name an entry of `evaluation` and one of its metrics, such as knn/label",
        )
    if not cadence.evaluate:
        raise ConfigError(
            f"cadence.keep_best: {cadence.keep_best} is never measured, because cadence.evaluate is 0",
            hint="leave it out, or say after how many steps to evaluate: cadence.evaluate=1000",
        )


def _meaningless(run: RunConfig) -> Remarks:
    """Settings that the task of a run cannot honour, by key path, and why. What a variant of a recipe may leave behind
    is not refused but said (`effect.py`)."""
    task = run.task
    if run.batch.split_contrastive and not task.works_in_pieces:
        yield "batch.split_contrastive", f"task.kind {task.kind} does not work on a share in pieces"
    if run.batch.media == "packed" and not task.mixes_media:
        yield "batch.media", f"task.kind {task.kind} does not train on images and clips in one batch"
    if run.engine.graph and not task.has_teacher:
        yield "engine.graph", f"it replays a teacher, and task.kind {task.kind} has none"
    if run.optim.layer_decay is not None and not task.has_layers_to_decay:
        yield "optim.layer_decay", f"task.kind {task.kind} trains all of its layers at one rate"
    if run.optim.warmup_lr and run.schedule.curve == "cosine_floor":
        yield "optim.warmup_lr", f"schedule.curve={run.schedule.curve} warms up from min_lr"
    if run.optim.warmup_lr and not (run.schedule.warmup_steps or run.schedule.warmup_epochs):
        unit = "epochs" if run.schedule.steps is None else "steps"
        yield "optim.warmup_lr", f"there is no warm-up to begin with it (schedule.warmup_{unit}); 0 is its default"
    for name, source in run.data.sources.items():
        if run.data.skip_draws and source.is_stream:
            at = f"data.sources.{name}"
            yield "data.skip_draws", f"{at} is streamed, and its draws show what comes next: none can be left out"
    yield from task.refused(run)
