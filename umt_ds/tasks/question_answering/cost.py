"""What a question costs by its shapes: its clip, its own tokens, and its answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from umt_ds.config.evaluation import QuestionAnsweringEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.question_answering import QuestionAnsweringConfig
from umt_ds.losses.masked_lm import Vocabulary
from umt_ds.models.flops import ClipFlops, TextFlops, student_flops_per_clip, text_flops
from umt_ds.models.memory import student_bytes_per_clip, text_bytes
from umt_ds.tasks.bert import bert_size_of
from umt_ds.tasks.cost import TaskCost, count_parameters
from umt_ds.tasks.encoders import size_of
from umt_ds.tasks.question_answering.model import build_module


@dataclass(frozen=True)
class AnsweringFlops:
    """Operations of one question with one answer, by part."""

    clip: ClipFlops
    question: TextFlops
    answer: TextFlops

    @property
    def forward(self) -> float:
        """The forward pass."""
        return self.clip.forward + self.question.forward + self.answer.forward

    @property
    def forward_backward(self) -> float:
        """Forward and backward."""
        return self.clip.forward_backward + self.question.forward_backward + self.answer.forward_backward

    def ranking(self, candidates: int) -> float:
        """Forward, with so many answers that pass through the decoder whole."""
        return self.clip.forward + self.question.forward + candidates * self.answer.forward


def answering_flops(config: QuestionAnsweringConfig) -> AnsweringFlops:
    """All tokens of the clip are seen; question and answer have full length."""
    size, bert = size_of(config.encoder), bert_size_of(config.text)
    return AnsweringFlops(
        clip=student_flops_per_clip(size, visible=_video_tokens(config), layers=0, out_width=0),
        question=text_flops(bert, **_reading(config)),
        answer=text_flops(replace(bert, layers=config.text.fusion_layers), **_writing(config)),
    )


def answering_cost(run: RunConfig, task: QuestionAnsweringConfig, element: int) -> TaskCost:
    """element: bytes of a number. Raises ConfigError where the parts do not fit each other."""
    encoder, flops = task.encoder, answering_flops(task)
    with torch.device("meta"):
        words = Vocabulary(bert_size_of(task.text).vocab_size, cls_id=0, pad_id=0, mask_id=0)
        module = build_module(task, words, seed=0, pretrained=False)
    judged = [one for one in run.evaluation.values() if isinstance(one, QuestionAnsweringEvaluation)]
    candidates = max((one.candidates for one in judged if one.answers is not None), default=0)
    return TaskCost(
        sentence=f"encoder {encoder.preset}, {encoder.frames} frames of {encoder.image_size} px, all "
        f"{_video_tokens(task)} tokens; BERT {task.text.preset}, {task.text.max_tokens} tokens of a question, "
        f"{task.answer_tokens} of an answer",
        parameters=count_parameters(module),
        teacher_parameters=0,
        forward_flops=flops.forward,
        student_flops=flops.forward_backward,
        teacher_flops=0.0,
        published_student_flops=flops.forward_backward,
        published_teacher_flops=0.0,
        pixel_bytes=encoder.frames * encoder.image_size**2 * 3,
        activation_bytes=_activation_bytes(task, element),
        teacher_bytes=0.0,
        evaluation_flops=flops.ranking(candidates) if judged else 0.0,
        assumptions=(
            "questions and answers of full length, one answer to a question",
            *([f"an evaluation scores {candidates} answers to a question whole"] if candidates else []),
        ),
    )


def _activation_bytes(config: QuestionAnsweringConfig, element: int) -> float:
    """Kept of one question for the backward."""
    encoder, text, bert = config.encoder, config.text, bert_size_of(config.text)
    checkpointed = max(0, text.checkpoint_layers - (bert.layers - text.fusion_layers))
    decoder = replace(bert, layers=text.fusion_layers)
    return (
        student_bytes_per_clip(
            size_of(encoder),
            visible=_video_tokens(config),
            element=element,
            checkpoint_blocks=encoder.checkpoint_blocks,
            layers=0,
            out_width=0,
        )
        + text_bytes(bert, **_reading(config), element=element, checkpoint_layers=text.checkpoint_layers)
        + text_bytes(decoder, **_writing(config), element=element, checkpoint_layers=checkpointed)
    )


def _video_tokens(config: QuestionAnsweringConfig) -> int:
    return config.encoder.frames * (config.encoder.image_size // size_of(config.encoder).patch) ** 2


def _reading(config: QuestionAnsweringConfig) -> dict[str, Any]:
    """A question passes once through both halves of BERT, and looks at its video."""
    return {
        "fusion_layers": config.text.fusion_layers,
        "tokens": config.text.max_tokens,
        "video_tokens": _video_tokens(config),
        "video_width": size_of(config.encoder).width,
        "texts": 1,
        "fused_texts": 1,
        "videos": 1,
        "masked_tokens": 0.0,
    }


def _writing(config: QuestionAnsweringConfig) -> dict[str, Any]:
    """An answer passes through the decoder, whose layers all look, at the question; each token tells the next."""
    width = bert_size_of(config.text).width
    tokens = config.answer_tokens - 1
    return {
        "fusion_layers": config.text.fusion_layers,
        "tokens": tokens,
        "video_tokens": config.text.max_tokens,
        "video_width": width,
        "texts": 0,
        "fused_texts": 1,
        "videos": 1,
        "masked_tokens": float(tokens),
    }
