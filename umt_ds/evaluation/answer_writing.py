"""Answers that a decoder writes freely, piece by piece: greedily, or with several beginnings at a time (beam search).

Shapes: Q questions, M tokens of a question, b beams, L tokens of an answer with [CLS], W width, V words.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from umt_ds.models.answer_decoder import AnswerDecoder

_ROWS = 256  # beginnings of answers at a time, as `answer_ranking.ROWS`


class WrittenAnswers(NamedTuple):
    """pieces: i64 [Q,L-1], [SEP] from the end of an answer on. log_probability: f32 [Q], of the answer with its [SEP],
    where it has one."""

    pieces: Tensor
    log_probability: Tensor


@torch.no_grad()
def write_answers(
    decoder: AnswerDecoder,
    questions: Tensor,
    is_question: Tensor,
    *,
    cls_id: int,
    sep_id: int,
    max_tokens: int,
    beams: int = 1,
) -> WrittenAnswers:
    """The likeliest answer among those that are followed: after each piece the `beams` likeliest beginnings. 1: greedy.

    questions: states [Q,M,W]; is_question: bool [Q,M]. max_tokens: L; an answer ends with [SEP], or after L-1 pieces,
    as training cut it. Likely is the product over all pieces, without regard to length. The decoder makes as many
    passes whatever it writes, as ZeRO stage 3 asks.
    """
    many = max(1, _ROWS // beams)
    parts = [
        _write(decoder, some, mask, cls_id=cls_id, sep_id=sep_id, max_tokens=max_tokens, beams=beams)
        for some, mask in zip(torch.split(questions, many), torch.split(is_question, many), strict=True)
    ]
    return WrittenAnswers(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _write(
    decoder: AnswerDecoder,
    questions: Tensor,
    is_question: Tensor,
    *,
    cls_id: int,
    sep_id: int,
    max_tokens: int,
    beams: int,
) -> WrittenAnswers:
    count, device = len(questions), questions.device
    rows = torch.arange(count, device=device).repeat_interleave(beams)
    written = torch.full((count, beams, 1), cls_id, device=device)
    # at first all beginnings are the same: one of them counts
    score = torch.full((count, beams), -torch.inf, device=device)
    score[:, 0] = 0.0
    for _ in range(max_tokens - 1):
        logits = decoder(written.flatten(0, 1), questions, is_question, rows)[:, -1]
        each = logits.float().log_softmax(dim=1).view(count, beams, -1)  # [Q,b,V]
        has_ended = written[..., -1] == sep_id
        each = each.masked_fill(has_ended[..., None], -torch.inf)
        each[..., sep_id] = each[..., sep_id].masked_fill(has_ended, 0.0)  # what has ended stays as it is
        score, place = (score[..., None] + each).flatten(1).topk(beams, dim=1)  # [Q,b]
        beam, piece = place // each.shape[-1], place % each.shape[-1]
        before = written.gather(1, beam[..., None].expand(-1, -1, written.shape[2]))
        written = torch.cat([before, piece[..., None]], dim=2)
    return WrittenAnswers(written[:, 0, 1:], score[:, 0])  # topk gives the best first
