"""How much of a published protocol a table of items has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.clip import Refusal
from data_prep.protocols.protocol import ClassNames, Counts, Note, Protocol, Row, num_texts
from umt_ds.errors import some

_MOST_MISSING = 1000  # are named in a manifest; bad.csv has all
_AS_LONG_S = 1.0  # a video that was cut on key frames is so much longer at most


@dataclass
class Coverage:
    """What the files of a protocol have, and which of their videos the set lacks."""

    protocol: Protocol
    videos: dict[str, bool] = field(default_factory=dict)  # as the files name it → whether the set has it
    texts: int = 0
    classes: ClassNames | None = None
    unanswered: int = 0  # questions
    too_long: list[str] = field(default_factory=list)  # videos that are stored beyond the seconds that count
    notes: list[str] = field(default_factory=list)  # on the files
    _shared: set[str] = field(default_factory=set)  # texts that several videos show

    def rows(self, annotations: Sequence[Path]) -> Iterator[Row | Refusal]:
        """What its reader says of files."""
        for said in self.protocol.read(annotations):
            if isinstance(said, Note):
                self.notes.append(said.text)
            else:
                yield said

    def count(self, named: str, fields: Mapping[str, Any]) -> None:
        """A row of the files. A caption that is its own group is one text, however many videos show it."""
        if named:
            self.videos.setdefault(named, False)
        caption = fields.get("caption")
        if isinstance(caption, str) and caption == fields.get("group"):
            if caption in self._shared:
                return
            self._shared.add(caption)
        self.texts += num_texts(fields)
        self.unanswered += "question" in fields and "answers" not in fields

    def has(self, named: str) -> None:
        """The set has this video, and the table an item of it."""
        self.videos[named] = True

    def check_length(self, named: str, stored_s: float) -> None:
        """Note a video of which so many seconds are stored, if that is more than count."""
        if self.protocol.first_s and stored_s > self.protocol.first_s + _AS_LONG_S:
            self.too_long.append(named)

    @property
    def missing(self) -> list[str]:
        return [named for named, found in self.videos.items() if not found]

    def as_published(self) -> bool:
        """Whether the files have the videos and texts that a paper used; true where no paper counts them."""
        said = self.protocol.expected
        return not said or any(
            one.videos in (None, len(self.videos)) and one.texts in (None, self.texts) for one in said
        )

    def text(self) -> str:
        """What a reader of a score has to know of it."""
        what = "boxes" if self.protocol.task == "detection" else "texts"
        lines = [f"{self.protocol.name}: {len(self.videos):,} videos and {self.texts:,} {what} in the files"]
        if not self.as_published():
            known = " or ".join(f"{_said(one)} ({one.by})" for one in self.protocol.expected)
            lines.append(f"these are NOT the files of the protocol, which have {known}")
        if self.unanswered:
            lines.append(f"{self.unanswered:,} questions have NO ANSWER in the files")
        if self.missing:
            lines.append(
                f"{len(self.missing):,} videos are MISSING in the set, so a score is of the others: "
                f"{some(self.missing)}"
            )
        if self.too_long:
            seconds = f"{self.protocol.first_s:g}"
            lines.append(
                f"{len(self.too_long):,} videos are stored BEYOND the first {seconds} s, and only those count; "
                f"make the set with `umt-data folder … --first-seconds {seconds}`: {some(self.too_long)}"
            )
        return "\n".join([*lines, *self.notes])

    def described(self) -> dict[str, Any]:
        """As the manifest of a table states it."""
        return {
            "name": self.protocol.name,
            "task": self.protocol.task,
            "videos": len(self.videos),
            "texts": self.texts,
            "as_published": self.as_published(),
            **({"captions": self.protocol.captions} if self.protocol.captions else {}),
            "missing": self.missing[:_MOST_MISSING],
            "num_missing": len(self.missing),
            **({"num_unanswered": self.unanswered} if self.protocol.task == "question answering" else {}),
            **({"scored": list(self.classes.scored)} if self.classes and self.classes.scored else {}),
            **({"num_too_long": len(self.too_long)} if self.protocol.first_s else {}),
        }


def _said(counts: Counts) -> str:
    """`670 videos and 27,763 texts`."""
    both = ((counts.videos, "videos"), (counts.texts, "texts"))
    return " and ".join(f"{count:,} {what}" for count, what in both if count is not None)
