"""The objective of question answering: one forward pass from pixels, questions and answers to the loss.

Shapes: B questions (rows, each with its clip), M tokens of a question, R answers to all of them, L tokens of an answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from umt_ds.batch import Losses, Tokens
from umt_ds.losses.answers import answer_losses, weighted_answer_loss
from umt_ds.models.answer_decoder import AnsweringModel
from umt_ds.models.vit import Clips


@dataclass(frozen=True)
class AnsweringInputs:
    """clips, questions: of B rows. answers: ids i64 [R,L], mask bool [R,L]; answer r is to question rows[r] (i64 [R])
    and counts weights[r] (f32 [R])."""

    clips: Clips
    questions: Tokens
    answers: Tokens
    rows: Tensor
    weights: Tensor


class AnsweringModule(AnsweringModel):
    """The model with its loss: what DeepSpeed wraps. Names as in published checkpoints, but for `bert.` (METHOD.md,
    "Names of weights")."""

    def forward(self, inputs: AnsweringInputs) -> Losses:
        """The weighted cross-entropy of all answers of one micro-batch."""
        questions, answers = inputs.questions, inputs.answers
        states = self.read(inputs.clips, questions.ids, questions.mask)
        logits = self.text_decoder(answers.ids[:, :-1], states, questions.mask, inputs.rows)
        losses = answer_losses(logits, answers.ids, answers.mask)
        loss = weighted_answer_loss(losses, inputs.weights, questions=len(questions.ids))
        return Losses(loss, {"answers": loss.detach()})
