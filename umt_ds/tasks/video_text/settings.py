"""Settings of the tasks that train a model of video and text."""

from __future__ import annotations

from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.retrieval import RetrievalConfig
from umt_ds.config.tasks.stage2 import Stage2Config
from umt_ds.errors import ConfigError


def objective_of(run: RunConfig) -> Stage2Config:
    """The settings of the model that a run trains, as those of stage 2. Raises ConfigError for a run that learns no
    text."""
    task = run.task
    if isinstance(task, RetrievalConfig):
        return task.objective
    if isinstance(task, Stage2Config):
        return task
    raise ConfigError(
        f"run {run.name} is of kind {task.kind}, which does not compare videos with texts",
        hint="a run of stage2 or retrieval",
    )


def has_word_head(run: RunConfig) -> bool:
    """Whether its model has the head of masked language modelling: fine-tuned ones have not."""
    return isinstance(run.task, Stage2Config)
