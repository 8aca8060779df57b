"""The stage-1 step as published, in plain torch: what `umt bench step --against plain` measures ours against.

Written from METHOD.md and kept simple. All tokens are embedded and most of them dropped by a boolean mask; attention
is written out; the whole teacher runs on all tokens, and every layer of it is projected; features of all layers are
stacked. Parameter names are the published ones. Where the published code is slow by accident this one is not: clips
arrive normalised, tables are on the device, and the precision is the run's.

Shapes: B clips, T frames, S patches per frame, N = T·S tokens, V visible ones, K aligned layers, C width of targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from umt_ds.batch import Batch
from umt_ds.bench.plain_models import PlainStudent, PlainTeacher
from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.models import TeacherConfig
from umt_ds.config.optimisation import OptimConfig
from umt_ds.config.tasks.stage1 import Stage1Config
from umt_ds.distributed.collectives import active
from umt_ds.engine.optim import build_adamw, decay_groups
from umt_ds.errors import ConfigError, NonFiniteError
from umt_ds.models.layers import IMAGENET, normalise
from umt_ds.models.teachers import Teacher
from umt_ds.models.towers import ClipTower
from umt_ds.tasks.encoders import size_of

AUTOCAST: dict[Precision, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_of(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """fp16 as published, or the run's precision."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def float_clips(pixels: Tensor) -> Tensor:
    """What the published loader hands over: uint8 [B,T,H,W,3] normalised to f32 [B,3,T,H,W]."""
    return normalise(pixels, IMAGENET).permute(0, 4, 1, 2, 3).contiguous()


def published_mask(attention: Tensor, *, clips: int, ratio: float) -> Tensor:
    """Draw the patches of each frame by attention [B·T,S] and show the first: bool [B,N], True where hidden.

    On the CPU, as published (METHOD.md, "Masking").
    """
    frames, patches = attention.shape
    visible = patches - int(patches * ratio)
    order = torch.multinomial(attention.float(), patches)
    mask = torch.ones(frames, patches, dtype=torch.bool)
    mask[torch.arange(frames)[:, None], order[:, :visible].cpu()] = False
    return mask.view(clips, -1)


def plain_loss(student: nn.Module, video: Tensor, features: Tensor, mask: Tensor) -> Tensor:
    """The mean of 2 - 2·cos over layers, clips and visible tokens. features [K,B,N,C] of all tokens.

    Source: METHOD.md, "Alignment loss".
    """
    layers, clips, _, width = features.shape
    targets = features[~mask.unsqueeze(0).repeat(layers, 1, 1)].reshape(layers, clips, -1, width)
    output = student(video, mask)
    loss: Tensor = (2 - 2 * (output * targets).sum(dim=-1)).mean()
    return loss


def published_update(
    loss: Tensor, student: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> float:
    """Backward, the norm of the gradient for the log, and the step of AdamW; the loss. Raises NonFiniteError."""
    value = loss.item()
    if not torch.isfinite(loss):
        raise NonFiniteError(f"the plain twin's loss is {value}", again=True)
    optimizer.zero_grad()
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    scaler.unscale_(optimizer)
    torch.nn.utils.get_total_norm(p.grad for p in student.parameters() if p.grad is not None)
    scaler.step(optimizer)
    scaler.update()
    return value


@dataclass
class PlainStep:
    """Models, optimiser and one step of the published training. Students of several ranks are wrapped in DDP."""

    student: nn.Module
    teacher: PlainTeacher
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    mask_ratio: float
    device: torch.device
    autocast_dtype: torch.dtype | None

    def ready(self, batch: Batch) -> Tensor:
        """As the published loader gives it."""
        return float_clips(batch.pixels)

    def step(self, video: Tensor, lr: float) -> float:
        """Train on clips f32 [B,3,T,H,W] in host memory; the loss. Raises NonFiniteError."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        video = video.to(self.device, non_blocking=True)
        with autocast_of(self.device, self.autocast_dtype):
            features, attention = self.teacher(video)
            mask = published_mask(attention, clips=len(video), ratio=self.mask_ratio)
            loss = plain_loss(self.student, video, features, mask)
        return published_update(loss, self.student, self.optimizer, self.scaler)

    @torch.no_grad()
    def evaluate(self, video: Tensor, mask: Tensor) -> float:
        """The loss under a given mask, in fp32 and with nothing dropped."""
        video = video.to(self.device)
        features, _ = self.teacher(video)
        self.student.eval()
        loss = plain_loss(self.student, video, features, mask).item()
        self.student.train()
        return loss


def build_plain(
    task: Stage1Config,
    ours: Teacher,
    state: Mapping[str, Tensor],
    optim: OptimConfig,
    *,
    device: torch.device,
    precision: Precision,
) -> PlainStep:
    """The reference step of a run, with the weights of our teacher and student (`state`, whose names are published).

    Only for what `refuse_unpublished` lets through.
    """
    student, teacher = plain_models(task, ours)
    student.load_state_dict(dict(state))
    student.to(device)
    teacher.to(device)
    own = decay_groups(student, optim.weight_decay)
    trained = DistributedDataParallel(student) if active() else student
    return PlainStep(
        student=trained,
        teacher=teacher,
        optimizer=build_adamw(own, optim),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16"),
        mask_ratio=task.mask.ratio,
        device=device,
        autocast_dtype=AUTOCAST[precision],
    )


def plain_models(task: Stage1Config, ours: Teacher) -> tuple[PlainStudent, PlainTeacher]:
    """Student with fresh weights, teacher with those of `ours`, in fp32 on the CPU."""
    student = PlainStudent(
        size_of(task.student),
        tokens=task.student.frames * ours.tower.patches,
        out_width=ours.out_width,
        layers=task.teacher.layers,
        interval=task.teacher.interval,
        drop_rate=task.student.drop_path,
        checkpoint_blocks=task.student.checkpoint_blocks,
    )
    return student, plain_teacher(ours, task.teacher)


def plain_teacher(ours: Teacher, settings: TeacherConfig) -> PlainTeacher:
    """With the weights of `ours`, in fp32 on the CPU."""
    tower = ours.tower
    assert isinstance(tower, ClipTower)
    teacher = PlainTeacher(
        ours.size,
        image_size=tower.image_size[0],
        out_width=ours.out_width,
        layers=settings.layers,
        interval=settings.interval,
        quick_gelu=tower.blocks[0].quick_gelu,
    )
    weights = {name: value.float().cpu() for name, value in tower.visual.state_dict().items()}
    weights["conv1.weight"] = weights["conv1.weight"].unsqueeze(2)  # published as Conv3d
    teacher.load_state_dict(weights)
    return teacher.requires_grad_(False).eval()


def refuse_unpublished(task: Stage1Config, teacher: Teacher) -> None:
    """Raises ConfigError where the published code has no such step."""
    published = {
        "task.mask.kind=semantic": task.mask.kind == "semantic",
        "task.mask.views=1": task.mask.views == 1,
        "task.loss=l2": task.loss == "l2",
        "task.teacher.norm=l2": task.teacher.norm == "l2",
        "task.teacher.pixels=imagenet": task.teacher.pixels == "imagenet",
        "a CLIP teacher": isinstance(teacher.tower, ClipTower),
        "task.teacher.features=projected": teacher.tower.features == "projected",
    }
    missing = [setting for setting, holds in published.items() if not holds]
    if missing:
        raise ConfigError(
            f"there is no published step to compare with: it needs {', '.join(missing)}",
            hint="leave --against away, or set that",
        )
