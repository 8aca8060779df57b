"""RankMe by hand."""

from __future__ import annotations

import math

import pytest
import torch

from umt_ds.evaluation.metrics.rankme import rankme


def test_orthonormal_rows_use_every_dimension() -> None:
    assert rankme(torch.eye(6)) == pytest.approx(6, rel=1e-4)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0))).Q
    assert rankme(3 * torch.eye(6) @ rotation) == pytest.approx(6, rel=1e-4)


def test_features_on_a_line_use_one() -> None:
    assert rankme(torch.arange(1.0, 9.0)[:, None] * torch.tensor([1.0, -2.0, 3.0])) == pytest.approx(1, abs=1e-4)


def test_two_directions_of_unlike_length_count_by_their_entropy() -> None:
    # singular values 3 and 1: shares 3/4 and 1/4
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert rankme(torch.tensor([[3.0, 0.0], [0.0, 1.0]])) == pytest.approx(math.exp(entropy), rel=1e-5)


def test_features_that_say_nothing_have_rank_0() -> None:
    assert rankme(torch.zeros(4, 3)) == 0.0
    assert rankme(torch.tensor([[1.0, math.nan], [0.0, 1.0]])) == 0.0
