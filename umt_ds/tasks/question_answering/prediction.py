"""The answers to somebody's questions about a video.

Shapes: Q questions, M tokens of a question, N tokens of the video, D its width, W width of the text, k answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from umt_ds.config.evaluation import QuestionAnsweringEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.question_answering import QuestionAnsweringConfig
from umt_ds.data.evaluation import published_frames
from umt_ds.data.order.views import Views
from umt_ds.errors import ConfigError
from umt_ds.evaluation.answer_ranking import rank_answers
from umt_ds.evaluation.prediction import Asked, Choice, Predict, Prediction, Predictor, cleaned
from umt_ds.tasks.captions import answer_tokenizer_of, caption_tokenizer
from umt_ds.tasks.question_answering.module import AnsweringModule
from umt_ds.tasks.video_text.retrieval import full_view


def answer_predictor(run: RunConfig, asked: Asked) -> Predictor:
    """The likeliest answers of a list to each question. Raises ConfigError where there is no question or list, or one
    says nothing, and for what such a run is not asked."""
    asked.refuse_all_but(("--question", "--answers"), says="answers questions")
    if not asked.questions:
        raise ConfigError("this run answers questions, and is asked none", hint='--question "what is the man doing"')
    if not asked.answers:
        raise ConfigError(
            "this run chooses answers of a list, and is given none", hint="--answers FILE, as umt-data answers makes it"
        )
    task = run.task
    assert isinstance(task, QuestionAnsweringConfig)
    tokenizer = caption_tokenizer(task.text)
    questions = tokenizer([cleaned(question, tokenizer.clean, what="question") for question in asked.questions])
    answers = answer_tokenizer_of(task.text, max_tokens=task.answer_tokens).tokens(asked.answers)
    judged = next((one for one in run.evaluation.values() if isinstance(one, QuestionAnsweringEvaluation)), None)

    def of(module: nn.Module) -> Predict:
        assert isinstance(module, AnsweringModule)
        device = next(module.parameters()).device
        ids, is_token, of_list = questions.ids.to(device), questions.mask.to(device), answers.to(device)

        @torch.no_grad()
        def predict(views: Tensor) -> list[Prediction]:
            video = module.encoder(views.to(device)).tokens  # [1,N,D]
            read, of_video = module.text_encoder.encode(ids, is_token), torch.zeros(len(ids), dtype=torch.long)
            states = module.text_encoder.fuse(read, is_token, video, of_video.to(device))  # [Q,M,W]
            found = rank_answers(module.text_decoder, states, is_token, of_list)
            return [
                Prediction(question, _choices(asked.answers, *best, top=asked.top))
                for question, *best in zip(asked.questions, found.numbers, found.probability, strict=True)
            ]

        return predict

    return Predictor(
        full_view(
            tokenizer,
            frames=published_frames(Views("retrieval", task.encoder.frames)),
            side=task.encoder.image_size,
            antialias=run.data.augment.antialias if judged is None or judged.antialias is None else judged.antialias,
            caption=task.question,
        ),
        averaged=judged is not None and judged.ema,
        of=of,
    )


def _choices(answers: Sequence[str], numbers: Tensor, probability: Tensor, *, top: int) -> tuple[Choice, ...]:
    """numbers: i64 [k], places in the list, the likeliest first; probability: f32 [k]."""
    best = zip(numbers[:top].tolist(), probability[:top].tolist(), strict=True)
    return tuple(Choice(answers[number], {"probability": share}) for number, share in best)
