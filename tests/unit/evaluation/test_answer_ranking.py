"""Answers of a list by a decoder, against a loop over questions and answers; equals, short lists, NaN."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from umt_ds.batch import Tokens
from umt_ds.errors import ConfigError
from umt_ds.evaluation.answer_ranking import rank_answers
from umt_ds.evaluation.metrics.answers import RankedAnswers, Shortlist, ranked, shortlist
from umt_ds.models.answer_decoder import AnswerDecoder
from umt_ds.models.presets import BertSize

SIZE = BertSize(width=16, layers=2, heads=2, hidden=32, vocab_size=40, max_tokens=8)
CLS, SEP = 1, 2
ANSWERS = ((9,), (9, 30), (7, 8, 9), (12,), (13, 14), (15, 16, 17), (3,))


@pytest.fixture(scope="module")
def decoder() -> AnswerDecoder:
    torch.manual_seed(0)
    made = AnswerDecoder(SIZE, layers=2, dropout=0.1).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # so that answers differ
    return made


def tokens(answers: tuple[tuple[int, ...], ...] = ANSWERS) -> Tokens:
    ids = torch.zeros(len(answers), 5, dtype=torch.long)
    for row, pieces in enumerate(answers):
        whole = torch.tensor((CLS, *pieces, SEP))
        ids[row, : len(whole)] = whole
    return Tokens(ids, ids > 0)


def questions() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    is_question = torch.tensor([[True] * 6, [True] * 3 + [False] * 3, [True] * 4 + [False] * 2])
    return torch.randn(3, 6, 16), is_question


def token_by_token(decoder: AnswerDecoder, states: Tensor, pieces: list[int]) -> Tensor:
    """Log probabilities of the tokens after [CLS], each from a pass of its own over what comes before, unpadded."""
    logs = []
    for place in range(1, len(pieces)):
        logits = decoder(torch.tensor([pieces[:place]]), states[None], torch.ones(1, len(states)).bool())
        logs.append(logits[0, -1].log_softmax(dim=0)[pieces[place]])
    return torch.stack(logs)


def by_loop(decoder: AnswerDecoder, *, k: int) -> list[dict[int, float]]:
    """Of each question, the probabilities of its k answers by their number."""
    states, is_question = questions()
    results = []
    for state, counts in zip(states, is_question, strict=True):
        logs = [token_by_token(decoder, state[counts], [CLS, *pieces, SEP]) for pieces in ANSWERS]
        kept = sorted(range(len(ANSWERS)), key=lambda number: -logs[number][0].item())[:k]
        scores = torch.stack([logs[number][0] + logs[number].sum() for number in kept])
        results.append(dict(zip(kept, scores.softmax(dim=0).tolist(), strict=True)))
    return results


@pytest.mark.parametrize("k", [1, 3, 7, 128])
@pytest.mark.parametrize("rows", [1, 4, 256])
@torch.no_grad()
def test_a_ranking_is_a_loop_over_questions_and_answers(decoder: AnswerDecoder, k: int, rows: int) -> None:
    ours = rank_answers(decoder, *questions(), tokens(), k=k, rows=rows)
    assert ours.numbers.shape == (3, min(k, len(ANSWERS)))
    for numbers, probability, expected in zip(*ours, by_loop(decoder, k=k), strict=True):
        best_first = sorted(expected, key=lambda number: -expected[number])
        assert numbers.tolist() == best_first
        torch.testing.assert_close(probability, torch.tensor([expected[number] for number in best_first]))


def test_a_ranking_keeps_no_activations(decoder: AnswerDecoder) -> None:
    assert not rank_answers(decoder, *questions(), tokens()).probability.requires_grad


def test_equals_stand_as_in_the_list(decoder: AnswerDecoder) -> None:
    twins = tokens(((9, 30), (9, 30), (9, 30)))
    ours = rank_answers(decoder, *questions(), twins)
    assert ours.numbers.tolist() == [[0, 1, 2]] * 3
    torch.testing.assert_close(ours.probability, torch.full((3, 3), 1 / 3))
    cut = rank_answers(decoder, *questions(), twins, k=2)
    assert cut.numbers.tolist() == [[0, 1]] * 3


def test_a_first_piece_that_is_next_to_impossible_is_still_ranked() -> None:
    logits = torch.zeros(1, 40)
    logits[0, 9], logits[0, 7] = 300.0, -300.0  # exp(-600) is 0 in f32
    short = shortlist(logits, tokens(((7,), (12,))).ids, k=2)
    assert short.numbers.tolist() == [[1, 0]]
    torch.testing.assert_close(short.log_first, torch.tensor([[-300.0, -600.0]]))


def test_the_whole_answer_can_turn_the_order_of_first_pieces() -> None:
    short = Shortlist(torch.tensor([[4, 2]]), torch.tensor([[-1.0, -2.0]]))
    ours = ranked(short, torch.tensor([[5.0, 1.0]]))
    assert ours.numbers.tolist() == [[2, 4]]
    torch.testing.assert_close(ours.probability, torch.tensor([[-3.0, -6.0]]).softmax(dim=1))


def test_a_model_gone_to_nan_answers_nothing() -> None:
    nothing = RankedAnswers(torch.tensor([[3, 1], [0, 2]]), torch.tensor([[torch.nan, torch.nan], [0.9, 0.1]]))
    assert nothing.best.tolist() == [-1, 0]


def test_an_empty_list_is_refused(decoder: AnswerDecoder) -> None:
    with pytest.raises(ConfigError, match="list of answers is empty"):
        rank_answers(decoder, *questions(), tokens(()))
