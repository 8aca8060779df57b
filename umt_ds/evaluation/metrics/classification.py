"""How many items a classifier names rightly, and what it takes for what. Pure functions of tensors.

Shapes: N items, V views of each, C classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

TOP = 5  # classes that count as an answer of several


def mean_probabilities(logits: Tensor, *, views: int) -> Tensor:
    """Softmax of each view, then the mean over the V views of an item: any float [N·V,C] to f64 [N,C].

    The softmax is taken in fp32. The views of an item stand one after another.
    Source: METHOD.md, "Views in testing".
    """
    probabilities = logits.float().softmax(dim=-1)
    return torch.unflatten(probabilities.double(), 0, (-1, views)).mean(dim=1)


def ranking(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The classes of each item, the likeliest first: [N,C] and i64 [N] to i64 [N,C].

    Of equals the right one comes last, so that a model which finds all classes alike has named nothing; the others
    stand by their number.
    """
    is_right = torch.nn.functional.one_hot(labels, probabilities.shape[1]).numpy()
    return torch.from_numpy(np.lexsort((is_right, -probabilities.numpy())))  # the last key counts first


def top_accuracy(ranked: Tensor, labels: Tensor, *, k: int) -> float:
    """Share of the items whose class is among the k likeliest. ranked: of `ranking`."""
    return (ranked[:, :k] == labels[:, None]).any(dim=1).double().mean().item()


def class_accuracies(confusion: Tensor) -> Tensor:
    """Of each class the share of its items that are named rightly: i64 [C,C] to f64 [C], NaN where it has none."""
    return confusion.diag().double() / confusion.sum(dim=1)


def mean_class_accuracy(confusion: Tensor) -> float:
    """Mean of `class_accuracies` over the classes that occur."""
    return class_accuracies(confusion).nanmean().item()


def confusion_matrix(labels: Tensor, predicted: Tensor, *, classes: int) -> Tensor:
    """Items of each class (rows) that were taken for each class (columns): i64 [N] each to i64 [C,C]."""
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)
