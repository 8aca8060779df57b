"""What `umt-data verify` finds: faults by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from umt_ds.errors import shown, some

Fault = tuple[str, str]  # kind; where and what

_MOST_EXAMPLES = 100  # faults of a kind that are kept in full; all are counted


@dataclass
class VerifyReport:
    """What was checked, how many faults of each kind there are, and the first ones of each kind in full.

    items, sets: of a table, and the sets under it whose shards were read, too.
    """

    items: int = 0
    sets: tuple[str, ...] = ()
    shards: int = 0
    samples: int = 0
    decoded: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)

    def add(self, kind: str, what: object) -> None:
        self.kinds[kind] += 1
        if self.kinds[kind] <= _MOST_EXAMPLES:
            self.faults.append((kind, shown(str(what).partition("\n")[0], 500)))

    def add_all_of(self, other: VerifyReport) -> None:
        """What was found of a set under a table."""
        self.shards, self.samples = self.shards + other.shards, self.samples + other.samples
        self.decoded += other.decoded
        room = {kind: _MOST_EXAMPLES - self.kinds[kind] for kind in other.kinds}
        self.kinds.update(other.kinds)
        for kind, what in other.faults:
            if room[kind] > 0:
                self.faults.append((kind, what))
                room[kind] -= 1

    def table(self, *, longest: int = 20) -> str:
        """The result as text: faults by kind, then the first of them in full."""
        checked = self._checked()
        total = self.kinds.total()
        if not total:
            return f"{checked}: all good"
        lines = [f"{checked}: {total:,} faults", ""]
        lines += [f"{count:>8,}  {kind}" for kind, count in self.kinds.most_common()]
        lines += ["", *(f"{kind}: {what}" for kind, what in self.faults[:longest])]
        if total > longest:
            lines.append(f"… and {total - longest:,} more")
        return "\n".join(lines)

    def _checked(self) -> str:
        items = f"{self.items:,} items" if self.items else ""
        if items and not self.sets:
            return f"{items}, without the shards that they are over"
        of_sets = f" over {some(self.sets, each=200)}, " if items else ""
        return f"{items}{of_sets}{self.shards:,} shards, {self.samples:,} samples, frames of {self.decoded:,} decoded"

    def to_json(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            **({"items": self.items, "sets": list(self.sets)} if self.items else {}),
            "shards": self.shards,
            "samples": self.samples,
            "decoded": self.decoded,
            "faults": dict(self.kinds.most_common()),
            "examples": [{"kind": kind, "what": what} for kind, what in self.faults],
        }


def of_label(record: Mapping[str, Any], labels: Sequence[str]) -> Iterator[Fault]:
    """What is wrong with the label of a record that has one; `labels` are the names of the classes."""
    label, name = record["label"], record.get("label_name")
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(labels):
        yield "label outside the class list", f"{label!r} of {len(labels)} classes"
    elif name is not None and name != labels[label]:
        yield "label outside the class list", f"{label} is {labels[label]!r} there, not {name!r}"
