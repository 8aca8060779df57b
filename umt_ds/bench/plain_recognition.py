"""The fine-tuning step as published, in plain torch: see `plain.py`.

Written from METHOD.md, "Recognition", and kept simple: all tokens, attention written out, mixup and CutMix of a GPU's
whole micro-batch by timm's rule. The published loader augments and erases, so that is no part of this step. As in
`plain.py`, clips arrive normalised and the precision is the run's.

Shapes: B rows, T frames, H x W pixels, N tokens, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from umt_ds.batch import Batch
from umt_ds.bench.plain import AUTOCAST, autocast_of, float_clips, published_update
from umt_ds.bench.plain_models import PlainBlock, PlainPatchEmbed
from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.optimisation import OptimConfig
from umt_ds.config.tasks.recognition import MixingConfig, RecognitionConfig
from umt_ds.distributed.collectives import active
from umt_ds.engine.optim import build_adamw
from umt_ds.models.positions import finetune_table
from umt_ds.models.presets import VitSize
from umt_ds.tasks.encoders import size_of


class Mixed(NamedTuple):
    """What our step trains on: clips f32 [B,3,T,H,W], normalised, erased and mixed, and their targets f32 [B,C]."""

    video: Tensor
    targets: Tensor


class PlainClassifier(nn.Module):
    """METHOD.md, "Recognition: model", with the published names."""

    def __init__(
        self, size: VitSize, *, classes: int, table: Tensor, drop_rate: float = 0.0, checkpoint_blocks: int = 0
    ) -> None:
        super().__init__()
        self.checkpoint_blocks = checkpoint_blocks
        self.patch_embed = PlainPatchEmbed(size)
        rates = torch.linspace(0, drop_rate, size.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(PlainBlock(size, rate) for rate in rates)
        self.fc_norm = nn.LayerNorm(size.width, eps=1e-6)
        self.head = nn.Linear(size.width, classes)
        self.table = table[None]  # [1,N,D]; a buffer would be sent around by DDP

    def forward(self, video: Tensor) -> Tensor:
        """f32 [B,3,T,H,W] to logits [B,C]."""
        self.table = self.table.to(video.device)  # once
        x = self.patch_embed(video)
        x = x + self.table.type_as(x)
        for index, block in enumerate(self.blocks):
            x = checkpoint(block, x, use_reentrant=False) if index < self.checkpoint_blocks else block(x)
        logits: Tensor = self.head(self.fc_norm(x.mean(dim=1)))
        return logits


def soft_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """timm's SoftTargetCrossEntropy: [B,C] each, the mean over the rows."""
    return torch.sum(-targets * F.log_softmax(logits.float(), dim=-1), dim=-1).mean()


def published_mixing(video: Tensor, labels: Tensor, mixing: MixingConfig | None, *, classes: int, off: float) -> Mixed:
    """timm's Mixup in mode batch, in place: all rows share one draw and are mixed in reverse order.

    labels i64 [B]; off: what each target has of every class (smoothing / C). Source: METHOD.md, "Mixup and CutMix".
    """
    targets = torch.full((len(labels), classes), off, device=video.device)
    targets.scatter_(1, labels[:, None].to(video.device), 1 - off * (classes - 1))
    share = 1.0
    if mixing is not None and np.random.rand() < mixing.prob:
        is_cut = mixing.cutmix and (not mixing.mixup or np.random.rand() < mixing.switch)
        alpha = mixing.cutmix if is_cut else mixing.mixup
        share = float(np.random.beta(alpha, alpha))
        if is_cut:
            y0, y1, x0, x1 = _box(share, *video.shape[-2:])
            video[..., y0:y1, x0:x1] = video.flip(0)[..., y0:y1, x0:x1]
            share = 1 - (y1 - y0) * (x1 - x0) / (video.shape[-2] * video.shape[-1])
        else:
            partners = video.flip(0).mul_(1 - share)
            video.mul_(share).add_(partners)
    return Mixed(video, targets * share + targets.flip(0) * (1 - share))


def _box(share: float, height: int, width: int) -> tuple[int, int, int, int]:
    """top, bottom, left, right of what CutMix replaces."""
    cut_h, cut_w = (int(side * (1 - share) ** 0.5) for side in (height, width))
    y, x = np.random.randint(0, height), np.random.randint(0, width)
    top, bottom = np.clip([y - cut_h // 2, y + cut_h // 2], 0, height)
    left, right = np.clip([x - cut_w // 2, x + cut_w // 2], 0, width)
    return int(top), int(bottom), int(left), int(right)


@dataclass
class PlainRecognitionStep:
    """Model, optimiser and one step of the published fine-tuning. Models of several ranks are wrapped in DDP."""

    student: nn.Module
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    task: RecognitionConfig
    classes: int
    device: torch.device
    autocast_dtype: torch.dtype | None

    def ready(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """As the published loader gives it: clips f32 [B,3,T,H,W] and labels i64 [B]."""
        assert batch.targets.labels is not None
        return float_clips(batch.pixels), batch.targets.labels

    def step(self, ready: tuple[Tensor, Tensor], lr: float) -> float:
        """Train on clips in host memory; the loss. Raises NonFiniteError."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        video = ready[0].to(self.device, non_blocking=True, copy=True)  # it is mixed in place
        off = self.task.smoothing / self.classes
        mixed = published_mixing(video, ready[1], self.task.mixing, classes=self.classes, off=off)
        with autocast_of(self.device, self.autocast_dtype):
            loss = soft_loss(self.student(mixed.video), mixed.targets)
        return published_update(loss, self.student, self.optimizer, self.scaler)

    @torch.no_grad()
    def evaluate(self, ready: tuple[Tensor, Tensor], mixed: Mixed) -> float:
        """The loss on clips that ours has mixed, in fp32 and with nothing dropped."""
        self.student.eval()
        loss = soft_loss(self.student(mixed.video.to(self.device)), mixed.targets.to(self.device)).item()
        self.student.train()
        return loss


def build_plain_recognition(
    task: RecognitionConfig,
    classes: int,
    state: Mapping[str, Tensor],
    optim: OptimConfig,
    *,
    device: torch.device,
    precision: Precision,
) -> PlainRecognitionStep:
    """The reference step of a run, with the weights of our module (`state`, whose names are published)."""
    model = plain_classifier(task, classes)
    model.load_state_dict(dict(state))
    model.to(device)
    groups = published_groups(model, optim)
    return PlainRecognitionStep(
        student=DistributedDataParallel(model) if active() else model,
        optimizer=build_adamw(groups, optim),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16"),
        task=task,
        classes=classes,
        device=device,
        autocast_dtype=AUTOCAST[precision],
    )


def plain_classifier(task: RecognitionConfig, classes: int) -> PlainClassifier:
    """The model with fresh weights."""
    encoder, base, size = task.encoder, task.positions, size_of(task.encoder)
    return PlainClassifier(
        size,
        classes=classes,
        table=finetune_table(encoder.frames, encoder.image_size, size.patch, size.width, base.frames, base.image_size),
        drop_rate=encoder.drop_path,
        checkpoint_blocks=encoder.checkpoint_blocks,
    )


def published_groups(model: PlainClassifier, optim: OptimConfig) -> list[dict[str, Any]]:
    """A group for each layer and weight decay, with its part of the learning rate.

    Source: METHOD.md, "Optimisation: recognition".
    """
    depth = len(model.blocks)
    groups: dict[tuple[int, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        words = name.split(".")
        layer = 0 if words[0] == "patch_embed" else int(words[1]) + 1 if words[0] == "blocks" else depth + 1
        decay = 0.0 if parameter.ndim == 1 else optim.weight_decay
        scale = (optim.layer_decay or 1.0) ** (depth + 1 - layer)
        group = groups.setdefault((layer, decay), {"params": [], "weight_decay": decay, "lr_scale": scale})
        group["params"].append(parameter)
    return list(groups.values())
