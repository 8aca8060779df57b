"""The model of stage 2 as a configuration means it.

Floors below know neither configurations nor files; the task and the evaluation both start here.
"""

from __future__ import annotations

from pathlib import Path

import torch

from umt_ds.batch import Media
from umt_ds.config.models import MaskConfig
from umt_ds.config.tasks.stage2 import Stage2Config
from umt_ds.errors import ConfigError, of_setting
from umt_ds.losses.masked_lm import Vocabulary
from umt_ds.masking import MaskPlan
from umt_ds.models.clip_towers import TextTeacher, build_text_teacher
from umt_ds.models.teachers import Teacher
from umt_ds.models.video_text import VideoEncoder
from umt_ds.tasks.bert import build_bert
from umt_ds.tasks.encoders import build_encoder, size_of
from umt_ds.tasks.initial import read_weights
from umt_ds.tasks.stage2.module import Stage2Module
from umt_ds.tasks.teacher import common_grid
from umt_ds.weights.load import about
from umt_ds.weights.published import text_teacher_state


def media_masks(config: Stage2Config, teacher: Teacher | None) -> dict[Media, MaskPlan | None]:
    """How tokens of each medium are hidden; None where all are seen. Raises ConfigError for a semantic mask with a
    teacher whose attention draws none."""

    def plan(mask: MaskConfig | None) -> MaskPlan | None:
        if mask is not None and mask.kind == "semantic" and (teacher is None or teacher.map_source is None):
            raise ConfigError(
                "a semantic mask needs a teacher with a class token or a pooling head",
                hint="task.mask.video.kind and task.mask.image.kind: tube or random, or a CLIP teacher",
            )
        return None if mask is None else MaskPlan(mask.kind, mask.ratio)

    return {"image": plan(config.mask_of("image")), "video": plan(config.mask_of("video"))}


def build_module(
    config: Stage2Config,
    teacher: Teacher | None,
    vocabulary: Vocabulary,
    *,
    seed: int,
    pretrained: bool = True,
    word_head: bool = True,
) -> Stage2Module:
    """The model with its first weights, the same on every rank: BERT's from its folder, all else from `seed`.

    pretrained: False leaves BERT at random weights, for those who load all of it. word_head: that of MLM, which
    fine-tuned models do not have. Without a teacher: no decoders.
    Raises ConfigError or WeightsError where student, teacher, BERT and tokenizer do not belong together.
    """
    student, settings = config.student, config.teacher
    size = size_of(student)
    if teacher is not None:
        common_grid(student.image_size, size.patch, teacher)
    if teacher is not None and config.align_projections != "none" and teacher.embed_width != config.embed_width:
        raise ConfigError(
            f"task.align_projections: CLIP's projections are {teacher.embed_width} wide, not {config.embed_width}",
            hint=f"task.embed_width={teacher.embed_width}",
        )
    aligned = teacher is not None and settings is not None and config.loss_weights.uta > 0
    torch.manual_seed(seed)
    with of_setting("task.teacher"):
        vision = VideoEncoder(
            build_encoder(student, config.positions),
            out_width=teacher.out_width if teacher is not None else size.width,
            layers=settings.layers if aligned and settings is not None else 0,
            interval=settings.interval if settings is not None else 1.0,
            norm=settings.norm if settings is not None else "l2",
        )
    text = build_bert(config.text, vocabulary, video_width=size.width, pretrained=pretrained, word_head=word_head)
    return Stage2Module(vision, text, config=config, seed=seed)


def load_text_teacher(config: Stage2Config) -> TextTeacher:
    """CLIP's text tower, out of the file of the teacher. Raises ConfigError where it is not as wide as the projections,
    WeightsError where the file has no text tower."""
    settings = config.teacher
    assert settings is not None, "the schema demands one"
    if settings.preset == "custom":
        raise ConfigError(
            "task.align_projections=visual_text needs a CLIP with a text tower; a custom teacher has none",
            hint="task.align_projections=visual",
        )
    state = None
    if settings.weights != "random":
        assert isinstance(settings.weights, Path)
        state = text_teacher_state(read_weights(settings.weights))
    with about(settings.weights):
        return build_text_teacher(settings.preset, state=state)
