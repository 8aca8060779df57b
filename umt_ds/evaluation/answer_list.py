"""The list of answers among which a model chooses, as a file has it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from umt_ds.data.shards.fetch import read_whole
from umt_ds.data.shards.sample_record import plain_text
from umt_ds.errors import ConfigError, DecodeError, shown, some
from umt_ds.evaluation.metrics.answers import as_compared
from umt_ds.keyed import digest64

_HINT = 'a json list of texts, such as ["yes", "no"]; `umt-data answers TABLE -o FILE` writes the one of a set'


@dataclass(frozen=True)
class AnswerList:
    """answers: as they stand in the file. where: names it in messages."""

    answers: tuple[str, ...]
    where: str

    @property
    def fingerprint(self) -> str:
        """Of the answers in their order."""
        return f"{digest64(*self.answers):016x}"

    @property
    def twice(self) -> list[str]:
        """Answers that stand there more than once, as they are compared."""
        counts = Counter(map(as_compared, self.answers))
        return [answer for answer, count in counts.items() if count > 1]

    def has_one_of(self, answers: Iterable[str]) -> bool:
        """Whether one of the answers to a question is in the list."""
        return any(as_compared(answer) in self._compared for answer in answers)

    @cached_property
    def _compared(self) -> frozenset[str]:
        return frozenset(map(as_compared, self.answers))


def read_answer_list(path: Path) -> AnswerList:
    """Of a json list of texts, or an object that numbers them, as published lists are. Raises ConfigError where it is
    none, and OSError or MachineError as `fetch.read_whole` does."""
    try:
        content = json.loads(read_whole(path))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no {path}", hint=_HINT) from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path} is a folder", hint=_HINT) from error
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ConfigError(f"{path} is no json: {shown(str(error), 160)}", hint=_HINT) from error
    numbered = isinstance(content, dict) and all(isinstance(number, int) for number in content.values())
    listed = list(content) if isinstance(content, list) or numbered else []
    if not listed:
        raise ConfigError(f"{path} is no list of answers, or an empty one", hint=_HINT)
    wrong = [f"{place}: {shown(repr(answer), 60)}" for place, answer in enumerate(listed) if not _is_answer(answer)]
    if wrong:
        raise ConfigError(
            f"{path}: {len(wrong)} of its {len(listed)} answers are no texts, or say nothing; in place "
            f"{some(wrong, 3)}",
            hint=_HINT,
        )
    return AnswerList(tuple(answer.strip() for answer in listed), str(path))


def _is_answer(answer: object) -> bool:
    if not isinstance(answer, str):
        return False
    try:
        return bool(plain_text(answer))
    except DecodeError:  # half a character, which json can hold and no tokenizer
        return False
