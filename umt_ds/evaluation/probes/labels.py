"""Labels of two sets as classes of one head, matched as `classes.matching` says.

Shapes: N training clips, M held-out clips, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from umt_ds.classes.matching import ClassList, match_classes
from umt_ds.errors import DataError, quoted, some


@dataclass(frozen=True)
class SetLabels:
    """The labels of a set's clips, i64 (-1: none), in one field. names: of its classes, by label; empty where it does
    not name them. where: the set, for messages."""

    where: str
    labels: Tensor
    names: tuple[str, ...]

    @property
    def class_list(self) -> ClassList:
        return ClassList(self.where, self.names)

    def called(self, label: int) -> str:
        return quoted(self.names[label]) if 0 <= label < len(self.names) else str(label)


@dataclass(frozen=True)
class MatchedLabels:
    """classes: what they are called. train: i64 [N], val: i64 [M], 0 … C-1; -1 where a clip has no label. In `val`, C
    is a class that the training set lists and none of its clips has: nobody can name it. way: by what labels were
    matched; warning: see `ClassMatch`."""

    classes: tuple[str, ...]
    train: Tensor
    val: Tensor
    way: str
    warning: str | None

    @property
    def unseen(self) -> int:
        """Held-out clips of classes that no training clip has."""
        return int((self.val == len(self.classes)).sum())

    @property
    def chance(self) -> float:
        """Share of the held-out clips that are of the most common class of the training clips: what one reaches without
        looking."""
        counts = self.train[self.train >= 0].bincount()
        return float((self.val[self.val >= 0] == counts.argmax()).double().mean())


def match_labels(field: str, train: SetLabels, val: SetLabels) -> MatchedLabels:
    """Both sets' labels as rows of one head, which has a row for each class of the training clips.

    Raises DataError where a set has no clip with a label, the training clips are all of one class, a label is outside
    its set's class list, or the training set does not know a class that the held-out set lists or has clips of.
    """
    for one in (train, val):
        _check(field, one)
    seen = torch.unique(train.labels[train.labels >= 0]).tolist()
    if len(seen) < 2:
        raise DataError(
            f"all clips of {train.where} are of one class ({field} {train.called(seen[0])})",
            hint="a probe tells classes apart: name a set with at least two",
        )
    row_of = {label: row for row, label in enumerate(seen)}
    match = match_classes(field, known=train.class_list, asked=val.class_list)
    as_train = {label: match.number_of(label) for label in torch.unique(val.labels).tolist() if label >= 0}
    listed = set(range(len(train.names)))
    strange = [label for label, known in as_train.items() if known not in row_of and known not in listed]
    if strange:
        count = int(torch.isin(val.labels, torch.tensor(strange)).sum())
        raise DataError(
            f"{val.where}: {count} clips are of a {field} that {train.where} does not know: "
            f"{some(map(val.called, strange))}",
            hint="train and val want the same classes: name sets of one class list",
        )
    rows = {label: row_of.get(known, len(seen)) for label, known in as_train.items()}
    return MatchedLabels(
        tuple(train.names[label] if train.names else str(label) for label in seen),
        _mapped(train.labels, row_of),
        _mapped(val.labels, rows),
        match.way,
        match.warning,
    )


def _check(field: str, one: SetLabels) -> None:
    if not (one.labels >= 0).any():
        raise DataError(
            f"no clip of {one.where} has a label {field!r}",
            hint="write the shards with labels, or name another --label",
        )
    largest = int(one.labels.max())
    if one.names and largest >= len(one.names):
        raise DataError(
            f"{one.where}: a clip has {field} {largest}, and the class list has {len(one.names)} names",
            hint="make the set again with the class list of its labels",
        )


def _mapped(labels: Tensor, rows: dict[int, int]) -> Tensor:
    """-1 stays -1."""
    return torch.tensor([rows.get(label, -1) for label in labels.tolist()])
