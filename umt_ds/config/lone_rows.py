"""What is refused where rows of a step are compared and there is but one."""

from __future__ import annotations

from umt_ds.config.tasks.base import TaskSettings
from umt_ds.errors import ConfigError


def refuse_lone_rows(task: TaskSettings, *, of_rank: int, of_all: int, medium: str = "") -> None:
    """Raises ConfigError where a task compares rows and there is but one: so many on a rank and on all, in a
    micro-batch, all of its pieces taken together. medium: that has so many of them, where several are packed."""
    if task.compares_rows == "of_rank" and of_rank == 1:
        raise ConfigError(
            f"a micro-batch of a rank has one row{medium}, and matching learns from pairs that do not match, which are "
            "made of the rows of a rank (task.vtm.negatives=local)",
            hint="batch.micro=2 or more (with batch.split_contrastive: fewer ranks, or a larger batch.global); or "
            "task.vtm.negatives=global on several ranks",
        )
    if task.compares_rows and of_all == 1:
        raise ConfigError(
            f"a micro-batch has one row{medium} on all ranks together, and there is nothing to compare it with",
            hint="batch.micro=2 or more",
        )
