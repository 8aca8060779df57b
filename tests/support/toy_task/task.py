"""The toy: a linear layer on mean colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from umt_ds.config.tasks.toy import ToyConfig

from umt_ds.batch import Batch, Losses
from umt_ds.config.optimisation import OptimConfig
from umt_ds.engine.optim import decay_groups
from umt_ds.engine.protocol import InitialWeights
from umt_ds.weights.load import load_strict
from umt_ds.weights.names import bare_names


@dataclass(frozen=True)
class ToyInputs:
    """colours f32 [B,F]; labels i64 [B]."""

    colours: Tensor
    labels: Tensor


class ToyModule(nn.Module):
    """Logits of the classes."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self._config = config
        self.classify = nn.Linear(3 * config.frames * config.cells**2, config.classes)

    def colours(self, pixels: Tensor) -> Tensor:
        """u8 [B,T,H,W,3] → f32 [B,T·cells²·3]: the mean of each cell, -1 … 1."""
        pixels = pixels.to(self.classify.weight.device)
        frames = pixels.flatten(0, 1).permute(0, 3, 1, 2).to(self.classify.weight.dtype) / 127.5 - 1
        return F.adaptive_avg_pool2d(frames, self._config.cells).reshape(len(pixels), -1)

    def forward(self, inputs: ToyInputs) -> Losses:
        loss = F.cross_entropy(self.classify(inputs.colours).float(), inputs.labels, ignore_index=-1)
        return Losses(loss, {"cross_entropy": loss.detach()})


class ToyTask:
    """Satisfies `engine.protocol.Task`."""

    fingerprints: Mapping[str, str] = {}
    classes: tuple[str, ...] = ()

    def __init__(self, config: ToyConfig, *, seed: int, device: torch.device) -> None:
        self._device = device
        torch.manual_seed(seed)
        self._module = ToyModule(config)

    @property
    def module(self) -> ToyModule:
        return self._module

    @property
    def flops_per_view(self) -> float:
        return 6.0 * self._module.classify.weight.numel()

    def prepare(self, batch: Batch, step: int) -> ToyInputs:
        batch = batch.to(self._device)
        assert batch.targets.labels is not None, "the loader reads the labels that the settings name"
        return ToyInputs(self._module.colours(batch.pixels), batch.targets.labels)

    def accelerate(self, *, compile: bool, graph: bool) -> None:
        pass

    def load_weights(self, weights: InitialWeights) -> str:
        return str(load_strict(self._module, bare_names(weights.state), where=weights.where))

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        return decay_groups(self._module, optim.weight_decay)
