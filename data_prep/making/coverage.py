"""How much of a published protocol a table of items has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data_prep.protocols.protocol import ClassNames, Protocol, num_texts
from umt_ds.errors import some

_MOST_MISSING = 1000  # are named in a manifest; bad.csv has all


@dataclass
class Coverage:
    """What the files of a protocol have, and which of their videos the set lacks."""

    protocol: Protocol
    videos: dict[str, bool] = field(default_factory=dict)  # as the files name it → whether the set has it
    texts: int = 0
    classes: ClassNames | None = None

    def count(self, named: str, fields: Mapping[str, Any], *, found: bool) -> None:
        """A row of the files."""
        self.videos[named] = found
        self.texts += num_texts(fields)

    @property
    def missing(self) -> list[str]:
        return [named for named, found in self.videos.items() if not found]

    def as_published(self) -> bool:
        """Whether the files have the videos and texts that a paper used; true where no paper counts them."""
        said = self.protocol.expected
        return not said or any(len(self.videos) == one.videos and one.texts in (None, self.texts) for one in said)

    def text(self) -> str:
        """What a reader of a score has to know of it."""
        lines = [f"{self.protocol.name}: {len(self.videos):,} videos and {self.texts:,} texts in the files"]
        if not self.as_published():
            known = " or ".join(
                f"{one.videos:,} videos" + (f" and {one.texts:,} texts" if one.texts else "") + f" ({one.by})"
                for one in self.protocol.expected
            )
            lines.append(f"these are NOT the files of the protocol, which have {known}")
        if self.missing:
            lines.append(
                f"{len(self.missing):,} videos are MISSING in the set, so a score is of the others: "
                f"{some(self.missing)}"
            )
        return "\n".join(lines)

    def described(self) -> dict[str, Any]:
        """As the manifest of a table states it."""
        return {
            "name": self.protocol.name,
            "task": self.protocol.task,
            "videos": len(self.videos),
            "texts": self.texts,
            "as_published": self.as_published(),
            "missing": self.missing[:_MOST_MISSING],
            "num_missing": len(self.missing),
            **({"scored": list(self.classes.scored)} if self.classes and self.classes.scored else {}),
        }
