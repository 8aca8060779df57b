"""The loss of answers against a loop over their tokens."""

from __future__ import annotations

import torch

from umt_ds.losses.answers import answer_losses, weighted_answer_loss


def test_an_answer_costs_what_its_tokens_cost_one_by_one() -> None:
    torch.manual_seed(0)
    lengths, ids, logits = (4, 2, 3), torch.randint(0, 11, (3, 4)), torch.randn(3, 3, 11)
    is_token = torch.arange(4) < torch.tensor(lengths)[:, None]
    expected = torch.zeros(3)
    for answer, length in enumerate(lengths):
        for place in range(1, length):  # token 0 is [CLS], which is given
            probability = logits[answer, place - 1].exp() / logits[answer, place - 1].exp().sum()
            expected[answer] -= probability[ids[answer, place]].log()
    torch.testing.assert_close(answer_losses(logits, ids, is_token), expected)


def test_what_stands_in_padding_costs_nothing() -> None:
    torch.manual_seed(0)
    logits, ids = torch.randn(1, 3, 11, requires_grad=True), torch.tensor([[1, 5, 0, 0]])
    answer_losses(logits, ids, ids > 0).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].abs().sum() > 0
    assert not logits.grad[0, 1:].any()


def test_losses_are_taken_in_full_precision() -> None:
    logits = torch.tensor([[[9.0, 1.0]]], dtype=torch.bfloat16)
    loss = answer_losses(logits, torch.tensor([[0, 0]]), torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(loss, torch.tensor([3.3540637e-4]))


def test_answers_count_by_their_weights_and_the_sum_by_questions() -> None:
    loss = weighted_answer_loss(torch.tensor([3.0, 6.0, 1.0]), torch.tensor([2 / 3, 1 / 3, 1.0]), questions=2)
    torch.testing.assert_close(loss, torch.tensor((2.0 + 2.0 + 1.0) / 2))
