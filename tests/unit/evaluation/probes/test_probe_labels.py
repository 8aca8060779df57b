"""Labels of two sets as classes of one head: by name, by number, and what cannot be matched."""

from __future__ import annotations

import pytest
import torch

from umt_ds.errors import DataError
from umt_ds.evaluation.probes.labels import MatchedLabels, SetLabels, match_labels


def matched(
    train: list[int], val: list[int], train_names: tuple[str, ...] = (), val_names: tuple[str, ...] = ()
) -> MatchedLabels:
    return match_labels(
        "label",
        SetLabels("TRAIN", torch.tensor(train), train_names),
        SetLabels("VAL", torch.tensor(val), val_names),
    )


def test_labels_become_rows_and_a_clip_without_one_has_none() -> None:
    found = matched([70, 3, -1, 70], [3, -1, 70])
    assert found.classes == ("3", "70")
    assert found.train.tolist() == [1, 0, -1, 1]
    assert found.val.tolist() == [0, -1, 1]
    assert found.unseen == 0


def test_classes_are_matched_by_their_names() -> None:
    found = matched([0, 1, 2], [0, 1], ("run", "jump", "sit"), ("sit", "run"))
    assert found.classes == ("run", "jump", "sit")
    assert found.val.tolist() == [2, 0]


@pytest.mark.parametrize("unnamed", [(), ("0", "1")])
def test_where_one_set_has_no_names_labels_are_matched_by_number_with_a_warning(unnamed: tuple[str, ...]) -> None:
    for names in (("run", "jump"), unnamed), (unnamed, ("run", "jump")):
        found = matched([0, 1], [1, 0], *names)
        assert (found.val.tolist(), found.way) == ([1, 0], "by number")
        assert found.warning is not None
        assert "do not name their classes" in found.warning
    assert matched([0, 1], [1, 0]).warning is None, "neither says what its numbers mean"


def test_a_class_without_training_clips_has_no_row_and_is_counted() -> None:
    found = matched([0, 2], [1, 2], ("run", "jump", "sit"), ("run", "jump", "sit"))
    assert found.classes == ("run", "sit")
    assert found.val.tolist() == [2, 1]
    assert found.unseen == 1


def test_chance_is_the_share_of_the_most_common_training_class() -> None:
    assert matched([5, 5, 7], [5, 7, 7, 7, -1]).chance == 0.25


@pytest.mark.parametrize(
    ("train", "val", "names", "words"),
    [
        ([-1, -1], [0], ((), ()), "no clip of TRAIN has a label 'label'"),
        ([0, 1], [-1], ((), ()), "no clip of VAL has a label 'label'"),
        ([4, 4, -1], [4], ((), ()), r"all clips of TRAIN are of one class \(label 4\)"),
        ([0, 0], [0], (("run",), ()), r"all clips of TRAIN are of one class \(label 'run'\)"),
        ([0, 1], [1, 9, 9], ((), ()), "VAL: 2 clips are of a label that TRAIN does not know: 9"),
        ([0, 1], [0, 1], (("a", "b"), ("a", "new")), r"VAL: 1 of its 2 classes \(label\) are not in .* TRAIN: 'new'"),
        ([0, 5], [0], (("a", "b"), ()), "TRAIN: a clip has label 5, and the class list has 2 names"),
    ],
)
def test_what_cannot_be_matched_is_one_error(
    train: list[int], val: list[int], names: tuple[tuple[str, ...], tuple[str, ...]], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        matched(train, val, *names)
