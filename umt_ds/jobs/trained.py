"""The trained model of a run, loaded when it is first needed: what `umt predict` and the Python API ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from umt_ds.config.deepspeed_json import Precision, load_deepspeed_json, precision_of
from umt_ds.jobs.eval_runs import EvalRun
from umt_ds.jobs.evaluate import as_trained, load_scored, verify_checkpoints
from umt_ds.tasks.initial import state_fingerprint
from umt_ds.tasks.kinds import build_task


@dataclass(frozen=True)
class TrainedModel:
    """names: of the rows of a classifier's head. averaged: whether the moving average of the weights is loaded.
    precision: None: that in which the run trains. compile: hand the blocks to torch.compile."""

    run: EvalRun
    names: Sequence[str]
    averaged: bool
    device: torch.device
    asked_precision: Precision | None = None
    compile: bool = False

    @property
    def precision(self) -> Precision:
        """Of the weights."""
        return self.asked_precision or precision_of(load_deepspeed_json(self.run.config.engine))

    @property
    def module(self) -> nn.Module:
        """In evaluation mode. Raises CheckpointError and WeightsError."""
        return self._loaded[0]

    @property
    def fingerprint(self) -> str:
        """Of the weights, before they are rounded to the precision."""
        return self._loaded[1]

    @cached_property
    def _loaded(self) -> tuple[nn.Module, str]:
        verify_checkpoints([self.run])
        task = build_task(self.run.config, device=self.device, precision=self.precision, classes=self.names)
        load_scored(task, self.run, averaged=self.averaged, judged=self.run.config.task.judged_by)
        fingerprint = state_fingerprint(task.module.state_dict())
        module = as_trained(task.module, self.precision).to(self.device).eval()
        if self.compile:
            task.accelerate(compile=True, graph=False)
        return module, fingerprint
