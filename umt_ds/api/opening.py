"""From a run, a weight file or a folder to a model that answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch

from umt_ds.api.abilities import ANY_QUESTION
from umt_ds.api.devices import device_called
from umt_ds.api.model import VideoModel
from umt_ds.api.wording import in_python
from umt_ds.classes import are_names
from umt_ds.config.deepspeed_json import Precision
from umt_ds.environment import at_home
from umt_ds.errors import ConfigError, WeightsError
from umt_ds.jobs.eval_runs import EvalRun, find_runs
from umt_ds.jobs.predict_input import class_names
from umt_ds.jobs.train import judged_by_average
from umt_ds.jobs.trained import TrainedModel
from umt_ds.tasks.file_run import NAME_IT, run_of_file
from umt_ds.tasks.kinds import predictor_of

log = logging.getLogger("umt_ds")


def load(
    source: str | os.PathLike[str],
    *,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    device: str | torch.device | None = None,
    precision: Precision | None = None,
    compile: bool = False,
    best: bool = False,
    ema: bool | None = None,
    classes: str | Sequence[str] | None = None,
) -> VideoModel:
    """A trained model to call.

    source: a run folder, a checkpoint folder, the folder of a model that `umt export` wrote, or a YAML file whose
    `init.weights` says where weights lie; or a weight file. A published file of size B or L says by its tensors which
    shipped run it belongs to; one of text needs `task.text.vocabulary=PATH` among the overrides.

    recipe: the shipped run (`umt config` lists them) or YAML file that trained the weights, where they do not say it.
    overrides: `key=value`, of its settings. device: the first GPU, else the CPU. precision: fp32, bf16 or fp16; that of
    the run. compile: hand the blocks to torch.compile, which costs the first call a minute. best: of a run folder, the
    best checkpoint and not the newest. ema: the moving average of the weights or not; as `umt predict` does. classes:
    names for a classifier whose checkpoint has none: k400, k600, k700, k710, a text file, or the names.

    Raises ConfigError for a source that is none and for settings that are wrong, CheckpointError and WeightsError for
    weights that are missing, damaged or do not fit, MachineError for a device that is not there.

    >>> model = umt_ds.load("runs/demo/recognition")  # doctest: +SKIP
    >>> model.predict("clip.mp4").choices[0].text  # doctest: +SKIP
    """
    if precision is not None and precision not in get_args(Precision):
        raise ConfigError(f"precision={precision!r}", hint=f"one of {', '.join(get_args(Precision))}")
    place = device_called(device)
    run = _run_of(os.fspath(source), recipe, overrides, best=best)
    with in_python():
        names = class_names(classes, known=run.classes, are_named=are_names(run.classes))
    averaged = _is_averaged(run, names) if ema is None else ema
    return VideoModel(TrainedModel(run, names, averaged, place, precision, compile))


def _run_of(source: str, recipe: str | None, overrides: Sequence[str], *, best: bool) -> EvalRun:
    if recipe is None:
        path = Path(at_home(source))
        if path.is_file() and path.suffix not in (".yaml", ".yml"):
            return _run_of_weights(path, overrides)
        try:
            return find_runs([source], overrides, best=best, judged=False)[0]
        except ConfigError as error:
            if (error.hint or "").startswith("give --weights PATH"):  # as commands call it
                hint = f"umt_ds.load(FILE, recipe={source!r}), or a run folder"
                raise ConfigError(error.what, hint=hint) from error
            raise
    if best:
        raise ConfigError("best= is a checkpoint of a run folder, and recipe= is for weights without one")
    weights = os.path.abspath(at_home(source))
    return find_runs([recipe], [f"init.weights={weights}", *overrides], own_weights=False, judged=False)[0]


def _run_of_weights(path: Path, overrides: Sequence[str]) -> EvalRun:
    """The shipped run that a weight file says it belongs to, by its tensors; the log says which that is."""
    try:
        recipe, given = run_of_file(path, overrides)
    except WeightsError as error:
        hint = error.hint
        if hint == NAME_IT:  # as commands call it
            hint = "the recipe that it was trained by, as recipe='retrieval/msrvtt/b16' (`umt config` lists them)"
        raise WeightsError(error.what, hint=hint) from error
    log.info("%s is taken for a model of %s; recipe= says another", path, recipe)
    return find_runs([recipe], given, own_weights=False, judged=False)[0]


def _is_averaged(run: EvalRun, names: Sequence[str]) -> bool:
    """As `umt predict` decides it; of a run that says nothing of videos, whether any of its evaluations does so."""
    says = run.config.task.says
    if says is None:
        return bool(judged_by_average(run.config))
    return predictor_of(run.config, ANY_QUESTION[says], names).averaged
