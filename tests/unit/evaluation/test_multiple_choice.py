"""Choices among captions, against numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch

from umt_ds.evaluation.metrics.multiple_choice import choice_accuracy, choice_scores


def test_a_score_is_seven_parts_match_and_three_parts_similarity() -> None:
    similarity = torch.tensor([[0.2, 0.1, 0.0]])
    match = torch.tensor([[[0.0, 0.0], [0.0, math.log(3.0)], [math.log(9.0), 0.0]]])  # probabilities 1/2, 3/4, 1/10
    parts = [math.exp(x / 0.05) for x in (0.2, 0.1, 0.0)]
    expected = [0.7 * p + 0.3 * part / sum(parts) for p, part in zip((0.5, 0.75, 0.1), parts, strict=True)]
    ours = choice_scores(similarity, match, temperature=0.05)
    torch.testing.assert_close(ours, torch.tensor([expected]))
    torch.testing.assert_close(choice_scores(similarity, match, temperature=torch.tensor([0.05])), ours)


@pytest.mark.parametrize(
    ("scores", "accuracy"),
    [
        ([[0.1, 0.9], [0.8, 0.2], [0.3, 0.4], [0.6, 0.7]], 0.5),
        ([[0.5, 0.5]] * 4, 0.0),  # all alike: nothing is chosen
        ([[math.nan, math.nan]] * 4, 0.0),
        ([[math.nan, 0.9]] * 4, 0.0),
    ],
)
def test_only_a_caption_above_all_others_is_chosen(scores: list[list[float]], accuracy: float) -> None:
    assert choice_accuracy(torch.tensor(scores), torch.tensor([1, 1, 1, 0])) == accuracy
