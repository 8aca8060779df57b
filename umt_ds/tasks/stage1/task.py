"""Stage 1: the student sees few tokens of a clip, and predicts the features that a frozen CLIP teacher has for them.

Per micro-batch: the teacher runs without gradient. Its class-token attention draws the mask, and its features of the
kept tokens are the targets. The student embeds the kept tokens alone, and K decoders predict K teacher layers.

Source: UMT section 3.1; METHOD.md.

Shapes: B clips, M masks of each (`mask.views`), V visible tokens, K aligned layers, C width of the targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from umt_ds.batch import Batch, Losses
from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.models import TeacherConfig
from umt_ds.config.optimisation import OptimConfig
from umt_ds.config.tasks.stage1 import Stage1Config
from umt_ds.engine.optim import decay_groups
from umt_ds.engine.protocol import InitialWeights
from umt_ds.engine.speed import span
from umt_ds.errors import ConfigError, WeightsError, of_setting
from umt_ds.losses.alignment import AlignmentLoss
from umt_ds.masking import MaskPlan, keep_digest
from umt_ds.models.alignment import AlignmentModel
from umt_ds.models.flops import student_flops_per_clip
from umt_ds.models.teachers import Teacher
from umt_ds.models.vit import Clips, VideoViT, drop_path_noise
from umt_ds.tasks.alignment import uta_loss
from umt_ds.tasks.encoders import check_size, size_of
from umt_ds.tasks.teacher import common_grid, forward_flops, load_teacher, place_teacher
from umt_ds.weights.load import about, load_strict
from umt_ds.weights.published import student_state


@dataclass(frozen=True)
class Stage1Inputs:
    """pixels u8 [B,T,H,W,3], keep i64 [M·B,V], targets K times [M·B,V,C], drop_noise f32 [depth,2,M·B] or None."""

    pixels: Tensor
    keep: Tensor
    targets: tuple[Tensor, ...]
    drop_noise: Tensor | None
    digest: Tensor


class Stage1Module(AlignmentModel):
    """The student with its loss: what DeepSpeed wraps. Names as in published checkpoints."""

    def __init__(self, encoder: VideoViT, *, teacher: Teacher, loss: AlignmentLoss, settings: TeacherConfig) -> None:
        with of_setting("task.teacher"):
            super().__init__(
                encoder,
                out_width=teacher.out_width,
                layers=settings.layers,
                interval=settings.interval,
                norm=settings.norm,
            )
        self.loss: AlignmentLoss = loss

    def forward(self, inputs: Stage1Inputs) -> Losses:  # type: ignore[override]
        """Alignment loss of one micro-batch: the mean over its clips and their masks."""
        output = self.encode(inputs.pixels, inputs.keep, inputs.drop_noise)
        loss = uta_loss(self, output, Clips(inputs.pixels, inputs.keep), inputs.targets, kind=self.loss)
        return Losses(loss, {"uta": loss.detach()}, inputs.digest)


class Stage1Task:
    """Satisfies `engine.protocol.Task`."""

    classes: tuple[str, ...] = ()

    def __init__(self, config: Stage1Config, *, seed: int, device: torch.device, precision: Precision) -> None:
        self._config, self._seed, self._device = config, seed, device
        student = config.student
        size = size_of(student)
        self._teacher, teacher_hash = load_teacher(config.teacher)
        self._fingerprints = {"teacher": teacher_hash}
        self._frames = student.frames
        self._grid = common_grid(student.image_size, size.patch, self._teacher)
        self._mask = MaskPlan(config.mask.kind, config.mask.ratio)
        self._views = config.mask.views
        refuse_semantic_mask(config, self._teacher)
        torch.manual_seed(seed)  # the student's initial weights: the same on every rank
        encoder = VideoViT(size, drop_path=student.drop_path, checkpoint_blocks=student.checkpoint_blocks)
        self._module = Stage1Module(encoder, teacher=self._teacher, loss=config.loss, settings=config.teacher)
        place_teacher(self._teacher, config.teacher, device=device, precision=precision)

    @property
    def module(self) -> Stage1Module:
        return self._module

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def teacher(self) -> Teacher:
        return self._teacher

    @property
    def fingerprints(self) -> Mapping[str, str]:
        return self._fingerprints

    @property
    def flops_per_view(self) -> float:
        """Student forward and backward, and the teacher's forward."""
        student, teacher = stage1_flops(self._config, self._teacher)
        return student + teacher

    def accelerate(self, *, compile: bool, graph: bool) -> None:
        """torch.compile for the blocks of student and teacher; the teacher's look as a CUDA graph."""
        for block in self._module.encoder.blocks if compile else ():
            block.compile()
        self._teacher.accelerate(compile=compile, graph=graph)

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        return decay_groups(self._module, optim.weight_decay)

    def load_weights(self, weights: InitialWeights) -> str:
        """Start from a published or own stage-1 student; decoders may be absent. Returns what was loaded."""
        with about(weights.where):
            named = student_state(weights.state)
            encoder = {key.removeprefix("encoder."): value for key, value in named.items()}
            check_size(encoder, self._module.encoder.size, setting="task.student")
            self._check_decoders(named)
        has_decoders = any(key.startswith("clip_decoder.") for key in named)
        ignored = () if has_decoders else ("clip_decoder.",)
        return str(load_strict(self._module, named, where=weights.where, ignore=ignored))

    def _check_decoders(self, named: Mapping[str, Tensor]) -> None:
        """Raises WeightsError for decoders of another number of layers than the run aligns."""
        found, own = len({key.split(".")[1] for key in named if key.startswith("clip_decoder.")}), self._config.teacher
        if found not in (0, own.layers):
            raise WeightsError(
                f"it has decoders for {found} layers of a teacher, and the run aligns {own.layers}",
                hint=f"task.teacher.layers={found}; or weights without decoders, which then begin anew",
            )

    @torch.no_grad()
    def prepare(self, batch: Batch, step: int) -> Stage1Inputs:
        """Teacher, mask and targets of one micro-batch, on the device."""
        with span("host_to_device"):
            batch = batch.to(self._device)
        with span("teacher"):
            look = self._teacher.attend(batch.pixels)
        with span("mask"):
            slots = self._view_slots(batch.slots)
            attention = None if look.attention is None else look.attention.repeat_interleave(self._views, dim=0)
            keep = self._mask.keep(
                attention,
                seed=self._seed,
                step=step,
                slots=slots,
                frames=self._frames,
                patches=self._grid[0] * self._grid[1],
            )
            digest = keep_digest(keep, step=step, slots=slots)
            encoder = self._module.encoder
            noise = None
            if encoder.drop_path > 0:
                noise = drop_path_noise(self._seed, step, slots, encoder.size.depth)
        with span("teacher"):
            targets = look.features(keep, equal_frames=self._mask.equal_frames)
        return Stage1Inputs(pixels=batch.pixels, keep=keep, targets=targets, drop_noise=noise, digest=digest)

    def _view_slots(self, slots: Tensor) -> Tensor:
        """The key of each mask: i64 [B] → [M·B], the M masks of a clip side by side; M = 1 changes nothing."""
        views = torch.arange(self._views, device=slots.device)
        return (slots[:, None] * self._views + views).flatten()


def stage1_flops(config: Stage1Config, teacher: Teacher) -> tuple[float, float]:
    """Operations a clip costs: of the student for all of its masks, forward and backward, and of the teacher."""
    size, mask = size_of(config.student), MaskPlan(config.mask.kind, config.mask.ratio)
    frames, patches, views = config.student.frames, teacher.tower.patches, config.mask.views
    visible = mask.visible(frames, patches)
    layers, out_width = config.teacher.layers, teacher.out_width
    student = student_flops_per_clip(size, visible=visible, layers=layers, out_width=out_width)
    kept = views * visible // frames if mask.equal_frames else None
    return views * student.forward_backward, forward_flops(teacher, frames=frames, kept=kept)


def refuse_semantic_mask(config: Stage1Config, teacher: Teacher) -> None:
    """Raises ConfigError where a teacher without class token and pooling head should say which tokens are kept."""
    if config.mask.kind == "semantic" and teacher.map_source is None:
        raise ConfigError(
            f"task.mask.kind=semantic draws masks from the attention of a class token or a pooling head; "
            f"{config.teacher.preset} has neither",
            hint="task.mask.kind=tube or random, or a teacher that has one (METHOD.md, Teachers of other families)",
        )
