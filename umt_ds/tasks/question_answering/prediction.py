"""The answers to somebody's questions about a video.

Shapes: Q questions, M tokens of a question, W width of the text, k answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from umt_ds.batch import Tokens
from umt_ds.config.evaluation import QuestionAnsweringEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.question_answering import QuestionAnsweringConfig
from umt_ds.data.clip_request import published_frames
from umt_ds.data.order.views import Views
from umt_ds.data.text import AnswerTokenizer
from umt_ds.errors import ConfigError
from umt_ds.evaluation.answer_ranking import rank_answers
from umt_ds.evaluation.answer_writing import write_answers
from umt_ds.evaluation.prediction import Asked, Choice, Prediction, Predictor, cleaned
from umt_ds.models.vit import Clips
from umt_ds.tasks.captions import answer_tokenizer_of, caption_tokenizer
from umt_ds.tasks.question_answering.module import AnsweringModule
from umt_ds.tasks.video_text.retrieval import full_view


def answer_predictor(run: RunConfig, asked: Asked) -> Predictor:
    """To each question the likeliest answers of a list, or the one that is written freely. Raises ConfigError where
    there is no question, or one says nothing, and for what such a run is not asked."""
    asked.refuse_all_but(("--question", "--answers", "--beams"), says="answers questions")
    if not asked.questions:
        raise ConfigError("this run answers questions, and is asked none", hint='--question "what is the man doing"')
    if asked.answers and asked.beams is not None:
        raise ConfigError(
            "--beams is for answers that are written, and --answers is a list of them", hint="one of both"
        )
    task = run.task
    assert isinstance(task, QuestionAnsweringConfig)
    tokenizer = caption_tokenizer(task.text)
    questions = tokenizer([cleaned(question, tokenizer.clean, what="question") for question in asked.questions])
    answers = answer_tokenizer_of(task.text, max_tokens=task.answer_tokens)
    judged = next((one for one in run.evaluation.values() if isinstance(one, QuestionAnsweringEvaluation)), None)
    candidates = QuestionAnsweringEvaluation.model_fields["candidates"].default if judged is None else judged.candidates
    if min(asked.top, len(asked.answers)) > candidates:
        raise ConfigError(
            f"--top {asked.top}: of the {len(asked.answers)} answers the {candidates} with the likeliest first piece "
            "are scored, as the run is judged",
            hint=f"--top {candidates} at most",
        )
    return Predictor(
        full_view(
            tokenizer,
            frames=published_frames(Views("retrieval", task.encoder.frames)),
            side=task.encoder.image_size,
            antialias=run.data.augment.antialias if judged is None or judged.antialias is None else judged.antialias,
            caption=task.question,
        ),
        averaged=judged is not None and judged.ema,
        of=partial(_Answering, asked=asked, questions=questions, answers=answers, candidates=candidates),
    )


class _Answering:
    """Encodes a video once, and reads all questions with it. Satisfies `Predict`."""

    def __init__(
        self, module: nn.Module, *, asked: Asked, questions: Tokens, answers: AnswerTokenizer, candidates: int
    ) -> None:
        assert isinstance(module, AnsweringModule)
        self._module, self._asked, self._answers, self._candidates = module, asked, answers, candidates
        self._device = next(module.parameters()).device
        self._questions = questions.to(self._device)
        self._listed = answers.tokens(asked.answers).to(self._device) if asked.answers else None

    @torch.no_grad()
    def __call__(self, views: Tensor) -> Sequence[Prediction]:
        ids, is_token = self._questions.ids, self._questions.mask
        of_video = torch.zeros(len(ids), dtype=torch.long, device=self._device)
        states = self._module.read(Clips(views.to(self._device)), ids, is_token, of_video)  # [Q,M,W]
        found = self._written(states) if self._listed is None else self._ranked(states, self._listed)
        return [Prediction(*each) for each in zip(self._asked.questions, found, strict=True)]

    def _ranked(self, states: Tensor, listed: Tokens) -> list[tuple[Choice, ...]]:
        best = rank_answers(self._module.text_decoder, states, self._questions.mask, listed, k=self._candidates)
        top = self._asked.top
        rows = zip(best.numbers[:, :top].tolist(), best.probability[:, :top].tolist(), strict=True)
        return [tuple(map(self._choice, *row)) for row in rows]

    def _choice(self, number: int, probability: float) -> Choice:
        return Choice(self._asked.answers[number], {"probability": probability})

    def _written(self, states: Tensor) -> list[tuple[Choice, ...]]:
        answers = self._answers
        written = write_answers(
            self._module.text_decoder,
            states,
            self._questions.mask,
            cls_id=answers.cls_id,
            sep_id=answers.sep_id,
            max_tokens=answers.max_tokens,
            beams=self._asked.beams or 1,
        )
        rows = zip(written.pieces.tolist(), written.log_probability.exp().tolist(), strict=True)
        return [(Choice(self._text(pieces), {"probability": share}),) for pieces, share in rows]

    def _text(self, pieces: list[int]) -> str:
        """Up to the end of the answer."""
        end = self._answers.sep_id
        return self._answers.text(pieces[: pieces.index(end)] if end in pieces else pieces)
