"""What a view of stage 2 costs, by its medium: arithmetic and memory, from the sizes alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from umt_ds.batch import Media
from umt_ds.config.tasks.stage2 import Stage2Config
from umt_ds.losses.masked_lm import Vocabulary
from umt_ds.models.flops import ClipFlops, TextFlops, student_flops_per_clip, text_flops
from umt_ds.models.memory import student_bytes_per_clip, teacher_bytes_per_clip, text_bytes
from umt_ds.models.presets import BertSize
from umt_ds.models.teachers import Teacher
from umt_ds.tasks.bert import bert_size_of
from umt_ds.tasks.cost import TaskCost, count_parameters
from umt_ds.tasks.encoders import size_of
from umt_ds.tasks.stage2.model import build_module, media_masks
from umt_ds.tasks.stage2.module import Stage2Module
from umt_ds.tasks.teacher import forward_flops, teacher_by_shape


class Stage2Cost:
    """Of a configuration; `frames` of a clip, one of an image."""

    def __init__(self, config: Stage2Config, teacher: Teacher | None) -> None:
        self._config, self._teacher = config, teacher
        self._masks = media_masks(config, teacher)
        self._patches = (config.student.image_size // size_of(config.student).patch) ** 2

    def frames(self, medium: Media) -> int:
        """That the student sees."""
        return 1 if medium == "image" else self._config.student.frames

    def visible(self, medium: Media) -> int:
        """Tokens that the student sees."""
        mask, frames = self._masks[medium], self.frames(medium)
        return frames * self._patches if mask is None else mask.visible(frames, self._patches)

    def flops(self, medium: Media) -> tuple[float, float]:
        """Of one view: all that is trained, forward and backward; and the teacher's forward."""
        trained = self._student_flops(medium).forward_backward + self._text(medium).forward_backward
        return trained, self._teacher_flops(medium, lean=True)

    def forward_flops(self, medium: Media) -> float:
        """All that is trained, forward."""
        return self._student_flops(medium).forward + self._text(medium).forward

    def published_flops(self, medium: Media) -> tuple[float, float]:
        """The same as published: all patches embedded, the whole teacher, keys and values made for each pair, and every
        token predicted, masked or not."""
        size, sizes = size_of(self._config.student), self._reading(medium)
        embedded = self.frames(medium) * self._patches
        student = student_flops_per_clip(size, visible=self.visible(medium), embedded=embedded, **self._aligned)
        tokens = self._config.text.max_tokens
        sizes |= {"videos": sizes["fused_texts"], "masked_tokens": tokens if sizes["masked_tokens"] else 0}
        text = text_flops(self._bert, **sizes)
        return student.forward_backward + text.forward_backward, self._teacher_flops(medium, lean=False)

    @property
    def evaluation_flops(self) -> float:
        """Forward, of a clip of which nothing is hidden; its captions are left out."""
        tokens = self.frames("video") * self._patches
        return student_flops_per_clip(size_of(self._config.student), visible=tokens, layers=0, out_width=0).forward

    @property
    def match_flops(self) -> float:
        """Forward, of a clip and a text through the fusion layers; keys and values of a clip are made once for many."""
        sizes = self._reading("video") | {"texts": 0, "fused_texts": 1, "videos": 0, "masked_tokens": 0.0}
        sizes["video_tokens"] = self.frames("video") * self._patches
        return text_flops(self._bert, **sizes).forward

    def activation_bytes(self, medium: Media, *, element: int) -> float:
        """Kept of one view for the backward."""
        settings = self._config
        student = student_bytes_per_clip(
            size_of(settings.student),
            visible=self.visible(medium),
            element=element,
            checkpoint_blocks=settings.student.checkpoint_blocks,
            **self._aligned,
        )
        checkpointed = settings.text.checkpoint_layers
        sizes = self._reading(medium)
        return student + text_bytes(self._bert, **sizes, element=element, checkpoint_layers=checkpointed)

    def teacher_bytes(self, medium: Media, *, element: int) -> float:
        """What the teacher's forward pass over one view takes at its largest."""
        teacher, settings = self._teacher, self._config.teacher
        if teacher is None or settings is None:
            return 0.0
        return teacher_bytes_per_clip(
            teacher.size,
            frames=self.frames(medium),
            patches=self._patches,
            layers=settings.layers,
            element=element,
            prefix_tokens=teacher.tower.prefix_tokens,
        )

    def mean_flops(self, shares: Mapping[Media, float]) -> float:
        """Of a view, teacher included, over the media as they are shown."""
        return sum(share * sum(self.flops(medium)) for medium, share in shares.items())

    @property
    def _bert(self) -> BertSize:
        return bert_size_of(self._config.text)

    @property
    def _aligned(self) -> dict[str, int]:
        teacher, settings = self._teacher, self._config.teacher
        if teacher is None or settings is None or not self._config.loss_weights.uta:
            return {"layers": 0, "out_width": 0}
        return {"layers": settings.layers, "out_width": teacher.out_width}

    def _student_flops(self, medium: Media) -> ClipFlops:
        size = size_of(self._config.student)
        return student_flops_per_clip(size, visible=self.visible(medium), **self._aligned)

    def _text(self, medium: Media) -> TextFlops:
        return text_flops(self._bert, **self._reading(medium))

    def _reading(self, medium: Media) -> dict[str, Any]:
        """How often BERT's halves run on a caption of full length, and on what."""
        text, weights = self._config.text, self._config.loss_weights
        vtm, mlm = bool(weights.vtm), bool(weights.mlm)
        fused_texts = 3 * vtm + mlm
        return {
            "fusion_layers": text.fusion_layers,
            "tokens": text.max_tokens,
            "video_tokens": self.visible(medium),
            "video_width": size_of(self._config.student).width,
            "texts": 1 + mlm,
            "fused_texts": fused_texts,
            "videos": (1 + vtm) if fused_texts else 0,
            "masked_tokens": self._config.mlm.ratio * (text.max_tokens - 1) if mlm else 0.0,
        }

    def _teacher_flops(self, medium: Media, *, lean: bool) -> float:
        teacher = self._teacher
        if teacher is None:
            return 0.0
        frames, mask = self.frames(medium), self._masks[medium]
        equal = mask is None or mask.equal_frames
        kept = self.visible(medium) // frames if lean and equal else None
        return forward_flops(teacher, frames=frames, kept=kept)


def on_meta(config: Stage2Config, *, word_head: bool = True) -> tuple[Stage2Module, Teacher | None]:
    """Module and teacher without weights or memory. Raises ConfigError where they do not fit each other."""
    settings = config.teacher
    with torch.device("meta"):
        teacher = None
        if settings is not None and config.needs_teacher:
            teacher = teacher_by_shape(settings)
        words = Vocabulary(bert_size_of(config.text).vocab_size, cls_id=0, pad_id=0, mask_id=0)
        return build_module(config, teacher, words, seed=0, pretrained=False, word_head=word_head), teacher


def stage2_cost(task: Stage2Config, element: int, shares: Mapping[Media, float], *, word_head: bool = True) -> TaskCost:
    """Raises ConfigError where student and teacher do not fit each other. element: bytes of a number."""
    module, teacher = on_meta(task, word_head=word_head)
    cost = Stage2Cost(task, teacher)
    student, published = task.student, [cost.published_flops(medium) for medium in shares]
    ours, parts = [cost.flops(medium) for medium in shares], list(shares.values())

    def mean(numbers: Iterable[float]) -> float:
        return sum(part * number for part, number in zip(parts, numbers, strict=True))

    def of(medium: Media) -> str:
        frames, side = cost.frames(medium), student.image_size
        tokens = frames * (side // size_of(student).patch) ** 2
        return f"{shares[medium]:.0%} {medium}s, {frames} frame(s), {cost.visible(medium)} of {tokens} tokens visible"

    return TaskCost(
        sentence=f"{student.preset}, {student.image_size} px, BERT {task.text.preset}: {'; '.join(map(of, shares))}",
        parameters=count_parameters(module),
        teacher_parameters=0 if teacher is None else count_parameters(teacher),
        forward_flops=mean(cost.forward_flops(medium) for medium in shares),
        student_flops=mean(own for own, _ in ours),
        teacher_flops=mean(its for _, its in ours),
        published_student_flops=mean(own for own, _ in published),
        published_teacher_flops=mean(its for _, its in published),
        pixel_bytes=max(cost.frames(medium) for medium in shares) * student.image_size**2 * 3,
        activation_bytes=max(cost.activation_bytes(medium, element=element) for medium in shares),
        teacher_bytes=max(cost.teacher_bytes(medium, element=element) for medium in shares),
        evaluation_flops=cost.evaluation_flops,
        match_flops=cost.match_flops,
        assumptions=("captions of full length; memory of the heavier medium",),
    )
