"""A run without what a measurement can do without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from umt_ds.config.check import Tree, check, fill
from umt_ds.config.load import load_tree
from umt_ds.config.outline import keys_at, kinds_at
from umt_ds.config.run import RunConfig


def load_step_run(name: str, overrides: Sequence[str], *, ranks: int) -> RunConfig:
    """The run for measuring its step: weights that are not here are random, shards and vocabulary may be missing, and a
    step is one micro-batch where `batch.global` is not overridden. Raises ConfigError."""
    tree, origins = load_tree(name, overrides)
    tree = fill(tree, origins, keep_unset=True)
    for part, settings in _read_from_files(tree):
        if _is_absent(settings):
            settings["weights"] = "random"
        if settings["weights"] == "random" and "vocabulary" in keys_at(RunConfig, ("task", part), tree):
            settings.setdefault("vocabulary", "none")  # tokens are noise
    batch = tree.get("batch")
    is_whole = any(word.startswith("batch.global=") for word in overrides)
    if isinstance(batch, dict) and isinstance(batch.get("micro"), int) and not is_whole:
        batch["global"] = batch["micro"] * ranks
    return check(tree, origins, keep_unset=True)


def load_loader_run(name: str) -> RunConfig:
    """The run for measuring its loader, which reads no weights. Raises ConfigError, also where shards are not named."""
    tree, origins = load_tree(name)
    tree = fill(tree, origins, keep_unset=True)
    for _, settings in _read_from_files(tree):
        if _is_absent(settings):
            settings["weights"] = "random"
    return check(tree, origins)


def _read_from_files(tree: Tree) -> Iterator[tuple[str, Tree]]:
    """The parts of a task that start from weights, which may be random, by name."""
    task = tree.get("task")
    for name, part in task.items() if isinstance(task, dict) else ():
        kinds = kinds_at(RunConfig, ("task", name, "weights"), tree)
        may_be_random = any("random" in get_args(kind) for kind in kinds)
        if isinstance(part, dict) and "weights" in part and may_be_random:
            yield name, part


def _is_absent(settings: Tree) -> bool:
    return not Path(str(settings["weights"])).exists()
