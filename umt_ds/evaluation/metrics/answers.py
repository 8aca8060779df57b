"""Which answers of a list are likely, and when an answer is right. Pure functions.

Shapes: Q questions, A answers of the list, k answers that are looked at closely, L tokens of an answer, V words.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor


class Shortlist(NamedTuple):
    """The answers of a list whose first piece is likeliest, best first. numbers: i64 [Q,k], places in the list;
    log_first: f32 [Q,k], logarithm of the probability of their first piece."""

    numbers: Tensor
    log_first: Tensor


class RankedAnswers(NamedTuple):
    """Answers by probability, best first. numbers: i64 [Q,k], places in the list; probability: f32 [Q,k], of the k."""

    numbers: Tensor
    probability: Tensor

    @property
    def best(self) -> Tensor:
        """The answer to each question: i64 [Q]; -1 where probabilities are not numbers, as of a model gone to NaN."""
        return self.numbers[:, 0].where(self.probability[:, 0].isfinite(), -1)


def shortlist(logits: Tensor, ids: Tensor, *, k: int) -> Shortlist:
    """The k answers (all, where the list is shorter) whose first piece is likeliest after [CLS].

    logits: [Q,V], any float, of the token after [CLS]. ids: i64 [A,L], the list: [CLS], then the first piece. Answers
    of one first piece are equals; of equals those that stand first in the list come first, and the cut may part them.
    Source: METHOD.md, "Question answering" (there the list has k answers at least, and equals come in any order).
    """
    log_first = logits.float().log_softmax(dim=1)[:, ids[:, 1]]  # [Q,A]
    numbers = log_first.argsort(dim=1, descending=True, stable=True)[:, :k]
    return Shortlist(numbers, log_first.gather(1, numbers))


def ranked(short: Shortlist, losses: Tensor) -> RankedAnswers:
    """The answers of a shortlist in their final order. losses: f32 [Q,k], of `losses.answers.answer_losses`.

    Score: log of the probability of the first piece, less the loss of the whole answer, so that the first piece counts
    twice, as published. Probabilities are the softmax of the scores over the k. Of equals those that came first in the
    shortlist stay first. Source: METHOD.md, "Question answering".
    """
    probability = (short.log_first - losses).softmax(dim=1)
    order = probability.argsort(dim=1, descending=True, stable=True)
    return RankedAnswers(short.numbers.gather(1, order), probability.gather(1, order))


def as_compared(answer: str) -> str:
    """An answer as answers are compared: without blanks around it, in lower case."""
    return answer.strip().lower()


def is_right(predicted: str, answers: Iterable[str]) -> bool:
    """Exact match with one of the answers to a question. Source: METHOD.md, "Question answering"."""
    return as_compared(predicted) in map(as_compared, answers)
