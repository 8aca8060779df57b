"""Which words are masked, how, and what mlm_sum them costs."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from umt_ds.kernels.philox import Purpose, uniform
from umt_ds.losses.masked_lm import Vocabulary, mask_tokens, masked_lm_loss
from umt_ds.losses.matching import draw_negatives, matching_loss

WORDS = Vocabulary(size=1000, cls_id=2, pad_id=0, mask_id=4)


def captions(count: int) -> torch.Tensor:
    ids = torch.arange(100, 100 + count * 20).view(count, 20) % 900 + 100
    ids[:, 0], ids[:, 15:] = WORDS.cls_id, WORDS.pad_id
    return ids


def test_half_of_the_tokens_are_chosen_and_eight_of_ten_of_those_become_mask() -> None:
    ids = captions(2000)
    noise = uniform(0, 0, torch.arange(2000), 60, Purpose.TEXT_MASK)
    masked = mask_tokens(ids, noise, vocabulary=WORDS, ratio=0.5)

    chosen = torch.zeros(ids.numel(), dtype=torch.bool)
    chosen[masked.positions[: masked.count]] = True
    chosen = chosen.view_as(ids)
    assert not chosen[:, 0].any()
    assert not chosen[:, 15:].any()
    assert abs(chosen[:, 1:15].float().mean() - 0.5) < 0.01
    is_mask, left = masked.ids[chosen] == WORDS.mask_id, masked.ids[chosen] == ids[chosen]
    assert abs(is_mask.float().mean() - 0.8) < 0.01
    assert abs(left.float().mean() - 0.1) < 0.01
    assert torch.equal(masked.ids[~chosen], ids[~chosen])
    others = masked.ids[chosen][~is_mask & ~left]
    assert others.min() < 20
    assert 980 < others.max() < 1000
    assert torch.equal(masked.labels[: masked.count], ids.flatten()[masked.positions[: masked.count]])


def test_positions_are_padded_to_a_multiple_of_64_at_no_cost() -> None:
    ids = captions(3)
    masked = mask_tokens(ids, torch.rand(3, 60), vocabulary=WORDS, ratio=0.5)
    assert len(masked.positions) == len(masked.labels) == 64
    logits = torch.randn(64, 1000)
    alone = F.cross_entropy(logits[: masked.count], masked.labels[: masked.count], reduction="sum")
    torch.testing.assert_close(masked_lm_loss(logits, masked.labels), alone)


def test_captions_without_masked_tokens_cost_zero() -> None:
    ids = torch.full((2, 20), WORDS.pad_id)
    ids[:, 0] = WORDS.cls_id
    masked = mask_tokens(ids, torch.rand(2, 60), vocabulary=WORDS, ratio=0.5)
    assert masked.count == 0
    assert masked_lm_loss(torch.randn(0, 1000), masked.labels) == 0


def test_negatives_are_drawn_in_proportion_to_softmax_over_the_others() -> None:
    similarity = torch.tensor([[3.0, 1.0, 0.0, 0.5]])
    same = torch.tensor([[True, False, False, False]])
    rows = 20000
    noise = uniform(1, 2, torch.arange(rows), 4, Purpose.NEGATIVES)
    drawn, has = draw_negatives(similarity.expand(rows, -1), same.expand(rows, -1), noise, hard=True)
    expected = torch.tensor([1.0, 0.0, 0.5]).softmax(0)
    found = torch.bincount(drawn, minlength=4)[1:] / rows
    assert has.all()
    assert (found - expected).abs().max() < 0.015


def test_similarities_so_far_apart_that_softmax_vanishes_still_give_a_negative() -> None:
    similarity = torch.tensor([[1e4, -1e4, -1.00001e4]])
    drawn, has = draw_negatives(similarity, torch.tensor([[True, False, False]]), torch.rand(1, 3), hard=True)
    assert has.all()
    assert drawn.item() in (1, 2)


def test_similarities_that_are_not_numbers_give_some_row_and_leave_the_error_to_the_loss() -> None:
    nothing = torch.full((2, 3), torch.nan)
    drawn, _ = draw_negatives(nothing, torch.zeros(2, 3, dtype=torch.bool), torch.rand(2, 3), hard=True)
    assert ((drawn >= 0) & (drawn < 3)).all()


def test_only_pairs_that_count_are_in_the_matching_loss() -> None:
    logits = torch.tensor([[0.0, 2.0], [0.0, 2.0], [1.0, 0.0]])
    loss = matching_loss(logits, is_match=torch.tensor([True, False, False]), counts=torch.tensor([True, False, True]))
    expected = -logits[0].log_softmax(0)[1] - logits[2].log_softmax(0)[0]
    torch.testing.assert_close(loss, expected)
