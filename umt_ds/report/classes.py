"""The tables of a classifier's section: accuracies, classes, and what is taken for what."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from umt_ds.errors import shown
from umt_ds.evaluation.evaluator import Scores
from umt_ds.evaluation.exhibits import NamedClips
from umt_ds.evaluation.metrics.classification import class_accuracies

MOST_DRAWN = 40  # classes of a matrix; of more, tables show the worst
_PAIRS = 20


def accuracy_rows(scores: Scores) -> list[list[str]]:
    """The accuracies in percent, heading first."""
    partial = f", {scores.partial_text}" if scores.is_partial else ""
    chance = scores.protocol["chance"]
    return [
        [f"accuracy on {scores.items} clips{partial}, %", *scores.values],
        ["the model", *(f"{value:.1f}" for value in scores.values.values())],
        ["chance", *(f"{chance[metric]:.1f}" if metric in chance else "-" for metric in scores.values)],
    ]


def class_rows(result: NamedClips, most: int) -> list[list[str]]:
    """Of each class that occurs: its name, its clips, how many are named rightly in percent, and for what most of the
    others are taken; the worst class first, at most so many."""
    accuracies = class_accuracies(result.confusion)
    occur = [number for number in accuracies.argsort(stable=True).tolist() if not accuracies[number].isnan()]
    wrong = result.confusion.clone().fill_diagonal_(0)
    return [
        [
            shown(result.names[number]),
            str(int(result.confusion[number].sum())),
            f"{100 * accuracies[number]:.0f}",
            f"{shown(result.names[int(wrong[number].argmax())])} ({int(wrong[number].max())})"
            if wrong[number].any()
            else "",
        ]
        for number in occur[:most]
    ]


def confused_pairs(result: NamedClips) -> list[list[str]]:
    """The pairs with most clips of one class that are taken for another: both names, these clips, all of the class."""
    wrong = result.confusion.clone().fill_diagonal_(0)
    places = wrong.flatten().argsort(descending=True, stable=True)[:_PAIRS].tolist()
    pairs = [divmod(place, len(result.names)) for place in places]
    of_class = result.confusion.sum(dim=1).tolist()
    return [
        [shown(result.names[one]), shown(result.names[other]), str(int(wrong[one, other])), str(of_class[one])]
        for one, other in pairs
        if wrong[one, other]
    ]


def confusion_as_json(result: NamedClips) -> dict[str, Any]:
    """All of it, of JSON types: `confusion` has a row for each class that clips are, a column for what they are taken
    for."""
    scores = result.scores
    return {
        "checkpoint": str(result.checkpoint),
        "values": dict(scores.values),
        "items": scores.items,
        "left_out": [asdict(one) for one in scores.left_out],
        "classes": list(result.names),
        "confusion": result.confusion.tolist(),
        "protocol": dict(scores.protocol),
    }
