"""Answers written freely, against all answers that can be written, each scored by itself."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from umt_ds.evaluation.answer_writing import write_answers
from umt_ds.models.answer_decoder import AnswerDecoder
from umt_ds.models.presets import BertSize

SIZE = BertSize(width=16, layers=2, heads=2, hidden=32, vocab_size=6, max_tokens=8)
CLS, SEP = 0, 1
LENGTH = 4  # [CLS] and three tokens


@pytest.fixture(scope="module")
def decoder() -> AnswerDecoder:
    torch.manual_seed(0)
    made = AnswerDecoder(SIZE, layers=2, dropout=0.1).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made


def questions(count: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    is_question = torch.arange(6) < torch.tensor([6, 3, 4, 2, 5])[:, None]
    return 2 * torch.randn(5, 6, 16, generator=generator)[:count], is_question[:count]


def write(decoder: AnswerDecoder, beams: int, count: int = 5) -> tuple[list[list[int]], Tensor]:
    """The pieces of each answer up to its end, and log probabilities."""
    found = write_answers(decoder, *questions(count), cls_id=CLS, sep_id=SEP, max_tokens=LENGTH, beams=beams)
    return [row[: row.index(SEP) + 1] if SEP in row else row for row in found.pieces.tolist()], found.log_probability


@torch.no_grad()
def next_logs(decoder: AnswerDecoder, question: int, before: list[int]) -> Tensor:
    states, is_question = questions()
    some = states[question][is_question[question]][None]
    return decoder(torch.tensor([[CLS, *before]]), some, torch.ones(1, some.shape[1]).bool())[0, -1].log_softmax(dim=0)


def every_answer() -> list[list[int]]:
    """All that end with [SEP], or have three pieces without it."""
    pieces = [piece for piece in range(SIZE.vocab_size) if piece != SEP]
    ended = [[*some, SEP] for length in range(LENGTH - 1) for some in product(pieces, repeat=length)]
    return ended + [list(some) for some in product(pieces, repeat=LENGTH - 1)]


def test_with_enough_beams_it_is_the_likeliest_of_all_answers(decoder: AnswerDecoder) -> None:
    written, logs = write(decoder, beams=40)
    for question in range(5):
        known: dict[tuple[int, ...], Tensor] = {}

        def log_of(answer: list[int], question: int = question, known: dict[tuple[int, ...], Tensor] = known) -> float:
            total = 0.0
            for place, piece in enumerate(answer):
                before = answer[:place]
                if tuple(before) not in known:
                    known[tuple(before)] = next_logs(decoder, question, before)
                total += known[tuple(before)][piece].item()
            return total

        best = max(every_answer(), key=log_of)
        assert written[question] == best
        assert logs[question].item() == pytest.approx(log_of(best), abs=1e-4)
    assert len({len(answer) for answer in written}) > 1, "answers of several lengths"


def test_one_beam_takes_the_likeliest_piece_each_time(decoder: AnswerDecoder) -> None:
    written, _ = write(decoder, beams=1)
    for question in range(5):
        greedy: list[int] = []
        while len(greedy) < LENGTH - 1 and SEP not in greedy:
            greedy.append(int(next_logs(decoder, question, greedy).argmax()))
        assert written[question] == greedy
    assert written != write(decoder, beams=40)[0], "here greed does not find the likeliest"


@pytest.mark.parametrize("beams", [1, 3])
def test_a_question_is_answered_alone_as_among_others(decoder: AnswerDecoder, beams: int) -> None:
    together, logs = write(decoder, beams)
    alone, log = write(decoder, beams, count=1)
    assert alone == together[:1]
    torch.testing.assert_close(log, logs[:1])


def test_it_makes_as_many_passes_whatever_it_writes(decoder: AnswerDecoder) -> None:
    """ZeRO stage 3 gathers weights in a pass, and a rank that stops early would leave the others waiting."""
    passes: list[int] = []
    handle = decoder.register_forward_hook(lambda *_: passes.append(1))
    try:
        for count in (1, 5):
            write(decoder, 2, count)
    finally:
        handle.remove()
    assert len(passes) == 2 * (LENGTH - 1)
