"""`umt-data answers`: the answers that tables of questions have, and lists of them, among which a model chooses one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data_prep.tables.table import read_json
from umt_ds.data.shards.source import ShardSource
from umt_ds.errors import DataError, shown
from umt_ds.terminal import progress

_MOST_SHOWN = 10


@dataclass(frozen=True)
class Questions:
    """The questions of some tables. answers: those of each, which may be none."""

    answers: tuple[tuple[str, ...], ...]

    @cached_property
    def counts(self) -> list[tuple[str, int]]:
        """Each answer, and how many questions have it; the most frequent first, those of equal counts by their text."""
        counts = Counter(answer for answers in self.answers for answer in set(answers))
        return sorted(counts.items(), key=lambda one: (-one[1], one[0]))

    def most_frequent(self, *, most: int | None, min_count: int) -> list[str]:
        """The first `most` answers that at least `min_count` questions have. None: all of them."""
        return [answer for answer, count in self.counts[:most] if count >= min_count]

    def table(self) -> str:
        """How many there are, and the most frequent answers."""
        unanswered = sum(not answers for answers in self.answers)
        without = f" ({unanswered:,} of them have none)" * bool(unanswered)
        head = f"{len(self.answers):,} questions{without} with {len(self.counts):,} different answers, most frequently"
        return "\n".join([head, *(f"{count:>8,}  {shown(answer)}" for answer, count in self.counts[:_MOST_SHOWN])])

    def covered_by(self, listed: Collection[str]) -> str:
        """Of how many questions an answer is listed, and the most frequent answers that are not."""
        among = frozenset(listed)
        asked = [answers for answers in self.answers if answers]
        found = sum(not among.isdisjoint(answers) for answers in asked)
        missing = [(answer, count) for answer, count in self.counts if answer not in among]
        share = f"{found:,} of {len(asked):,} questions ({found / len(asked):.2%})"
        lines = [f"{share} have an answer among these {len(among):,}"]
        if missing:
            lines.append(f"{len(missing):,} different answers are not among them, most frequently")
        return "\n".join([*lines, *(f"{count:>8,}  {shown(answer)}" for answer, count in missing[:_MOST_SHOWN])])


def read_questions(tables: Sequence[Path]) -> Questions:
    """The answers of all items of these tables. Raises DataError where one of them has no answers."""
    found: list[tuple[str, ...]] = []
    for table in tables:
        with closing(ShardSource(table)) as source:
            refs = progress(source.refs(), unit="item", desc=table.name, total=len(source))
            answers = [_answers_of(source.question(ref).fields.get("answers"), table) for ref in refs]
        if not any(answers):
            raise DataError(
                f"no item of {table} has answers",
                hint="`umt-data items SET OUT --annotations FILE --protocol NAME` makes a table of questions: "
                "`umt-data protocols` lists the names",
            )
        found += answers
    return Questions(tuple(found))


def _answers_of(said: object, table: Path) -> tuple[str, ...]:
    answers = said if isinstance(said, list) else [] if said is None else [said]
    if not all(isinstance(answer, str) for answer in answers):
        raise DataError(f"{table} has an item whose answers are no texts: {shown(repr(said))}")
    return tuple(answers)


def read_answer_list(path: Path) -> list[str]:
    """A published list: a json list of texts, or an object that numbers them. Raises DataError where it is none."""
    content = read_json(path)
    listed = list(content) if isinstance(content, (list, dict)) else []
    if not listed or not all(isinstance(answer, str) for answer in listed):
        raise DataError(
            f"{path} is no list of answers", hint="it should be a json list of texts, or an object of text and number"
        )
    return [answer.strip() for answer in listed]
