"""Stage 2: video and text are trained together, on images and clips with captions.

Per micro-batch: the teacher runs, its attention draws the masks (image 50 %, video 80 %), and tokens of the captions
are masked (50 %). `module.py` holds the objective. Source: UMT section 3.2; METHOD.md.

Shapes: B rows of one medium, N visible tokens, L text tokens, K aligned layers, C width of the targets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from umt_ds.batch import Batch, Media, Tokens
from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.optimisation import OptimConfig
from umt_ds.config.tasks.stage2 import Stage2Config
from umt_ds.engine.optim import decay_groups
from umt_ds.engine.protocol import InitialWeights
from umt_ds.engine.speed import span
from umt_ds.kernels.philox import Purpose, uniform
from umt_ds.keyed import digest64
from umt_ds.losses.masked_lm import MaskedTokens, Vocabulary, mask_tokens
from umt_ds.masking import MaskPlan, keep_digest
from umt_ds.models.alignment import unit_length
from umt_ds.models.clip_towers import TextTeacher
from umt_ds.models.teachers import Teacher, TeacherPass
from umt_ds.models.video_text import keeps_frames
from umt_ds.models.vit import Clips, drop_path_noise
from umt_ds.tasks.cost import ONLY_VIDEO
from umt_ds.tasks.encoders import size_of
from umt_ds.tasks.initial import state_fingerprint
from umt_ds.tasks.stage2.cost import Stage2Cost
from umt_ds.tasks.stage2.model import build_module, load_text_teacher, media_masks
from umt_ds.tasks.stage2.module import Rows, Stage2Inputs, Stage2Module
from umt_ds.tasks.teacher import load_teacher, place_teacher
from umt_ds.tasks.video_text.weights import load_retrieval, load_stage2

log = logging.getLogger("umt_ds")


class Stage2Task:
    """Satisfies `engine.protocol.Task`. pieces: that a batch is worked on in (`batch.split_contrastive`).
    fine_tuning: without the head of masked language modelling, and from weights that compare videos with texts.
    shares: tells the part of all views that each medium has, where somebody counts operations: a run that is judged is
    not asked, whose training sets may be elsewhere."""

    classes: tuple[str, ...] = ()

    def __init__(
        self,
        config: Stage2Config,
        *,
        seed: int,
        device: torch.device,
        precision: Precision,
        vocabulary: Vocabulary,
        pieces: int = 1,
        fine_tuning: bool = False,
        shares: Callable[[], Mapping[Media, float]] = lambda: ONLY_VIDEO,
    ) -> None:
        self._config, self._seed, self._device, self._pieces = config, seed, device, pieces
        self._vocabulary = vocabulary
        self._shares = shares
        self._teacher: Teacher | None = None
        self._fingerprints = {"vocabulary": vocabulary.fingerprint}
        if config.teacher is not None and config.needs_teacher:
            self._teacher, self._fingerprints["teacher"] = load_teacher(config.teacher)
        self._text_teacher: TextTeacher | None = None
        if config.align_projections == "visual_text":
            self._text_teacher = load_text_teacher(config)
            self._fingerprints["text teacher"] = state_fingerprint(self._text_teacher.state_dict())
            self._text_teacher.to(device)
        self._masks: dict[Media, MaskPlan | None] = media_masks(config, self._teacher)
        self._fine_tuning = fine_tuning
        self._module = build_module(config, self._teacher, vocabulary, seed=seed, word_head=not fine_tuning)
        if self._teacher is not None and config.teacher is not None:
            place_teacher(self._teacher, config.teacher, device=device, precision=precision)

    @property
    def module(self) -> Stage2Module:
        return self._module

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def teacher(self) -> Teacher | None:
        return self._teacher

    @property
    def fingerprints(self) -> Mapping[str, str]:
        return self._fingerprints

    @property
    def flops_per_view(self) -> float:
        """The mean over images and clips as they are shown; captions count as if they had full length."""
        return Stage2Cost(self._config, self._teacher).mean_flops(self._shares())

    def accelerate(self, *, compile: bool, graph: bool) -> None:
        """torch.compile for the blocks of student and teacher; the teacher's look as a CUDA graph."""
        for block in self._module.vision_encoder.encoder.blocks if compile else ():
            block.compile()
        if self._teacher is not None:
            self._teacher.accelerate(compile=compile, graph=graph)

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """The temperature decays too, as published (METHOD.md, "Temperature and similarity")."""
        return decay_groups(self._module, optim.weight_decay, also=("temp",))

    def load_weights(self, weights: InitialWeights) -> str:
        """Start from stage 2 or retrieval (published or our own); stage 2 also from stage 1, with its video encoder.
        Returns what was loaded. Raises WeightsError for what does not fit."""
        return (load_retrieval if self._fine_tuning else load_stage2)(self._module, weights)

    # ------------------------------------------------------------ preparing

    @torch.no_grad()
    def prepare(self, batch: Batch, step: int) -> Stage2Inputs:
        """Masked tokens, masks and targets of one micro-batch, piece by piece."""
        parts = batch.parts
        pieces = []
        digest = torch.zeros((), dtype=torch.int64, device=self._device)
        for piece in range(self._pieces):
            rows = []
            for part in parts:
                each = len(part.draws) // self._pieces
                prepared = self._prepare(part.rows(piece * each, (piece + 1) * each), step)
                digest = digest + _digest(prepared, step)
                rows.append(prepared)
            pieces.append(tuple(rows))
        return Stage2Inputs(tuple(pieces), step, digest)

    def _prepare(self, batch: Batch, step: int) -> Rows:
        assert batch.text is not None, "the loader tokenises captions for this task"
        assert batch.ids is not None
        with span("mask"):
            masked = self._mask_tokens(batch, step) if self._config.loss_weights.mlm else None
            match_ids = torch.stack([batch.ids, _text_hashes(batch.text.ids)], dim=1)  # i64 [B,2]
        with span("host_to_device"):
            batch = batch.to(self._device)
            match_ids = _to(match_ids, self._device)
            masked = None if masked is None else masked.moved(lambda tensor: _to(tensor, self._device))
        assert batch.text is not None
        plan, frames = self._masks[batch.media], batch.pixels.shape[1]
        kinds = [None if mask is None else mask.kind for mask in self._masks.values()]
        kept_frames = keeps_frames(None if plan is None else plan.kind, masks=kinds)
        with span("teacher"):
            look = None if self._teacher is None else self._teacher.attend(batch.pixels)
        with span("mask"):
            keep = None if plan is None else self._keep(plan, look, batch, step)
        with span("teacher"):
            targets = self._targets(look, keep, plan, batch)
            clip_video = None
            if look is not None and self._config.align_projections != "none":
                clip_video = unit_length(look.embedding().mean(dim=1))
        return Rows(
            medium=batch.media,
            clips=Clips(batch.pixels, keep, self._drop_noise(batch.slots, step)),
            pooled_frames=frames if kept_frames else 1,
            ids=batch.text.ids,
            is_token=batch.text.mask,
            masked=masked,
            match_ids=match_ids,
            slots=batch.slots,
            targets=targets,
            clip_video=clip_video,
            clip_text=self._clip_text(batch.text),
        )

    def _mask_tokens(self, batch: Batch, step: int) -> MaskedTokens:
        assert batch.text is not None
        noise = uniform(self._seed, step, batch.slots, 3 * batch.text.ids.shape[1], Purpose.TEXT_MASK)
        return mask_tokens(batch.text.ids, noise, vocabulary=self._vocabulary, ratio=self._config.mlm.ratio)

    def _keep(self, plan: MaskPlan, look: TeacherPass | None, batch: Batch, step: int) -> Tensor:
        side = self._config.student.image_size // size_of(self._config.student).patch
        return plan.keep(
            None if look is None else look.attention,
            seed=self._seed,
            step=step,
            slots=batch.slots,
            frames=batch.pixels.shape[1],
            patches=side * side,
        )

    def _targets(
        self, look: TeacherPass | None, keep: Tensor | None, plan: MaskPlan | None, batch: Batch
    ) -> tuple[Tensor, ...]:
        if look is None or not self._config.loss_weights.uta:
            return ()
        if keep is None:  # nothing is hidden: all tokens are aligned
            tokens = batch.pixels.shape[1] * look.teacher.tower.patches
            keep = torch.arange(tokens, device=batch.pixels.device).expand(len(batch.pixels), -1)
        return look.features(keep, equal_frames=plan is None or plan.equal_frames)

    def _clip_text(self, text: Tokens) -> Tensor | None:
        if self._text_teacher is None:
            return None
        assert text.clip_ids is not None, "the loader tokenises captions for CLIP too"
        return self._text_teacher.embedding(text.clip_ids)

    def _drop_noise(self, slots: Tensor, step: int) -> Tensor | None:
        encoder = self._module.vision_encoder.encoder
        return drop_path_noise(self._seed, step, slots, encoder.size.depth) if encoder.drop_path > 0 else None


def _text_hashes(ids: Tensor) -> Tensor:
    """A hash of each row of token ids: i64 [B,L] to i64 [B]."""
    return torch.tensor([digest64(row.tobytes()) >> 1 for row in ids.numpy()])


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    """From host memory without waiting, which takes pinned memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _digest(rows: Rows, step: int) -> Tensor:
    """What was drawn for these rows: the kept tokens, and the captions as they are with words hidden."""
    digest = rows.slots.new_zeros(())
    if rows.clips.keep is not None:
        digest = digest + keep_digest(rows.clips.keep, step=step, slots=rows.slots)
    if rows.masked is not None:
        digest = digest + keep_digest(rows.masked.ids, step=step, slots=rows.slots)
    return digest
