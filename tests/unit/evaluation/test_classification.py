"""Accuracies of a classifier against hand numbers, and what equals and classes without items mean."""

from __future__ import annotations

import math

import torch

from umt_ds.evaluation.metrics.classification import (
    class_accuracies,
    confusion_matrix,
    mean_class_accuracy,
    mean_probabilities,
    ranking,
    top_accuracy,
)


def test_views_are_averaged_after_the_softmax() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(9)], [0.0, math.log(9)]])
    means = mean_probabilities(logits, views=2)
    assert means.dtype == torch.float64
    torch.testing.assert_close(means, torch.tensor([[0.625, 0.375], [0.1, 0.9]]).double(), rtol=0, atol=1e-7)


def test_of_equals_the_right_class_comes_last() -> None:
    alike = torch.full((3, 4), 0.25)
    labels = torch.tensor([0, 2, 3])
    assert ranking(alike, labels).tolist() == [[1, 2, 3, 0], [0, 1, 3, 2], [0, 1, 2, 3]]
    assert top_accuracy(ranking(alike, labels), labels, k=3) == 0.0
    some = torch.tensor([[0.1, 0.4, 0.4, 0.1]])
    assert ranking(some, torch.tensor([1])).tolist() == [[2, 1, 0, 3]]
    assert ranking(some, torch.tensor([0])).tolist() == [[1, 2, 3, 0]]


def test_accuracy_among_the_first_k() -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    labels = torch.tensor([0, 1, 2, 2])
    ranked = ranking(probabilities, labels)
    assert [top_accuracy(ranked, labels, k=k) for k in (1, 2, 3)] == [0.5, 0.75, 1.0]


def test_every_class_that_occurs_counts_alike() -> None:
    labels = torch.tensor([0, 0, 0, 1, 3])
    predicted = torch.tensor([0, 0, 2, 1, 0])
    confusion = confusion_matrix(labels, predicted, classes=4)
    assert confusion.tolist() == [[2, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert class_accuracies(confusion)[2].isnan()
    assert math.isclose(mean_class_accuracy(confusion), (2 / 3 + 1 + 0) / 3)
