"""Recognition: the encoder sees whole clips, and its head names what happens in them.

Per micro-batch: labels become soft targets; a box of some views is erased; rows of a group are mixed with each other
(`regularisation.py`). The loss is the cross-entropy with the soft targets, the mean over the rows.

Source: UMT section 4 and tables 6 to 9; METHOD.md, "Recognition".

Shapes: B rows (views), T frames, H x W pixels, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from umt_ds.batch import Batch, Losses
from umt_ds.config.optimisation import OptimConfig
from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.distributed.collectives import is_first_rank
from umt_ds.engine.optim import decay_groups, layer_decay_groups
from umt_ds.engine.protocol import InitialWeights
from umt_ds.engine.speed import span
from umt_ds.models.classifier import VideoClassifier
from umt_ds.models.flops import ClipFlops, student_flops_per_clip
from umt_ds.models.vit import drop_path_noise
from umt_ds.tasks.encoders import base_clip, size_of
from umt_ds.tasks.recognition.classes import HeadClasses
from umt_ds.tasks.recognition.regularisation import Regularisation
from umt_ds.tasks.recognition.weights import load_initial

log = logging.getLogger("umt_ds")


@dataclass(frozen=True)
class RecognitionInputs:
    """pixels u8 [B,T,H,W,3], or f32 [B,3,T,H,W] normalised where views are erased or mixed; targets f32 [B,C];
    drop_noise f32 [depth,2,B] or None. digest: i64 scalar, of what was drawn to erase and mix them."""

    pixels: Tensor
    targets: Tensor
    drop_noise: Tensor | None
    digest: Tensor | None = None


class RecognitionModule(VideoClassifier):
    """The classifier with its loss: what DeepSpeed wraps. Names as in published checkpoints."""

    def forward(self, inputs: RecognitionInputs) -> Losses:  # type: ignore[override]
        """Cross-entropy of one micro-batch with its soft targets."""
        logits = self.logits(inputs.pixels, inputs.drop_noise).float()
        loss = soft_cross_entropy(logits, inputs.targets)
        return Losses(loss, {"ce": loss.detach()}, inputs.digest)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the rows of -Σ target · log softmax: f32 [B,C] each → scalar."""
    return -(targets * F.log_softmax(logits, dim=-1)).sum(dim=-1).mean()


def smoothed_targets(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """i64 [B] → f32 [B,C]: smoothing/C everywhere, and 1 - smoothing more at the label."""
    is_label = labels[:, None] == torch.arange(classes, device=labels.device)  # F.one_hot would ask the device
    return is_label.float() * (1 - smoothing) + smoothing / classes


class RecognitionTask:
    """Satisfies `engine.protocol.Task`."""

    fingerprints: Mapping[str, str] = {}

    def __init__(self, config: RecognitionConfig, classes: HeadClasses, *, seed: int, device: torch.device) -> None:
        self._config, self._seed, self._device = config, seed, device
        self._classes = classes
        torch.manual_seed(seed)  # initial weights: the same on every rank
        self._module = module_of(config, classes.count)
        self._regularisation = Regularisation(config, seed=seed, statistics=self._module.patch_embed.proj.statistics)

    @property
    def module(self) -> RecognitionModule:
        return self._module

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes.names

    @property
    def flops_per_view(self) -> float:
        """Forward and backward."""
        return recognition_flops(self._config, self._classes.count).forward_backward

    def accelerate(self, *, compile: bool, graph: bool) -> None:
        """torch.compile for the blocks; nothing is frozen here."""
        for block in self._module.blocks if compile else ():
            block.compile()

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        if optim.layer_decay is None:
            return decay_groups(self._module, optim.weight_decay)
        return layer_decay_groups(self._module, optim.weight_decay, optim.layer_decay)

    def load_weights(self, weights: InitialWeights) -> str:
        """Start from a student of stage 1 or 2 or a classifier, published or our own. Warns of what is in doubt."""
        loading = load_initial(self._module, weights, self._config, self._classes)
        for doubt in loading.doubts if is_first_rank() else ():
            log.warning("%s: %s", weights.where, doubt)
        return loading.told

    @torch.no_grad()
    def prepare(self, batch: Batch, step: int) -> RecognitionInputs:
        """Targets and mixed pixels of one micro-batch, on the device."""
        host_slots = batch.slots
        with span("host_to_device"):
            batch = batch.to(self._device)
        labels = batch.targets.labels
        assert labels is not None, "the loader reads the labels that the settings name, and holds them against the head"
        pixels, digest = batch.pixels, None
        with span("regularisation"):
            targets = smoothed_targets(labels, self._classes.count, self._config.smoothing)
            if self._config.changes_pixels:
                pixels, targets, digest = self._regularisation(
                    pixels, targets, step=step, slots=batch.slots, host_slots=host_slots
                )
        noise = None
        if self._module.drop_path > 0:
            noise = drop_path_noise(self._seed, step, batch.slots, self._module.size.depth)
        return RecognitionInputs(pixels, targets, noise, digest)


def module_of(config: RecognitionConfig, classes: int) -> RecognitionModule:
    """The module that a run trains, with weights drawn from torch's generator. Raises ConfigError for positions of
    frames that cannot be cut into patches."""
    encoder, size = config.encoder, size_of(config.encoder)
    return RecognitionModule(
        size,
        classes=classes,
        drop_path=encoder.drop_path,
        checkpoint_blocks=encoder.checkpoint_blocks,
        head_scale=config.head_scale,
        base=base_clip(config.positions, size),
    )


def recognition_flops(config: RecognitionConfig, classes: int) -> ClipFlops:
    """Operations of one view: all tokens, and the head on their mean."""
    size, encoder = size_of(config.encoder), config.encoder
    tokens = encoder.frames * (encoder.image_size // size.patch) ** 2
    clip = student_flops_per_clip(size, visible=tokens, layers=0, out_width=0)
    return ClipFlops(clip.blocks, clip.patch_embed, heads=2.0 * size.width * classes)
