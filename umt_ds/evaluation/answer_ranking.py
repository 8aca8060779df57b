"""The answers of a list in the order in which a decoder finds them likely, a bounded number of them at a time.

Shapes: Q questions, M tokens of a question, A answers of the list, k of them looked at closely, L tokens of an answer,
W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from umt_ds.batch import Tokens
from umt_ds.errors import ConfigError
from umt_ds.evaluation.metrics.answers import RankedAnswers, ranked, shortlist
from umt_ds.losses.answers import answer_losses
from umt_ds.models.answer_decoder import AnswerDecoder

ROWS = 256  # answers at a time: at 5 tokens their logits over BERT's vocabulary take 125 MB


@torch.no_grad()
def rank_answers(
    decoder: AnswerDecoder,
    questions: Tensor,
    is_question: Tensor,
    answers: Tokens,
    *,
    k: int = 128,
    rows: int = ROWS,
) -> RankedAnswers:
    """The k answers (all, where the list is shorter) whose first piece is likeliest, in the order of whole answers.

    questions: states [Q,M,W]; is_question: bool [Q,M]. answers: ids i64 [A,L] of `[CLS] answer [SEP]` and mask bool
    [A,L]. rows: how many answers pass through the decoder at once; the result does not depend on it. Raises ConfigError
    where the list is empty. Source: METHOD.md, "Question answering".
    """
    if not len(answers.ids):
        raise ConfigError("the list of answers is empty: there is nothing to rank")
    start = answers.ids[:1, :1].expand(len(questions), 1)  # [CLS]
    first = decoder(start, questions, is_question)[:, 0]  # [Q,V]
    short = shortlist(first, answers.ids, k=k)
    return ranked(short, _losses(decoder, questions, is_question, answers, short.numbers, rows))


def _losses(
    decoder: AnswerDecoder, questions: Tensor, is_question: Tensor, answers: Tokens, numbers: Tensor, rows: int
) -> Tensor:
    """Of answer numbers[q,i] to question q: i64 [Q,k] to f32 [Q,k]."""
    asked = torch.arange(len(numbers), device=numbers.device)[:, None].expand_as(numbers).flatten()
    losses = []
    for of_question, number in zip(torch.split(asked, rows), torch.split(numbers.flatten(), rows), strict=True):
        ids, is_token = answers.ids[number], answers.mask[number]
        near, of_near = torch.unique(of_question, return_inverse=True)  # keys and values of these questions only
        logits = decoder(ids[:, :-1], questions[near], is_question[near], of_near)
        losses.append(answer_losses(logits, ids, is_token))
    return torch.cat(losses).view_as(numbers)
