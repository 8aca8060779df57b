"""RUN/metrics.jsonl, read back: the one reader of it. Torch-free.

There are two kinds of record, a line each, one JSON object in UTF-8. That of a logged step has the step and the digest
of its clips. That of an evaluation has `"kind": "scores"`, the step, and what was found (`ScoresRecord`):

    {"kind": "scores", "step": 400, "evaluation": "knn", "values": {"label": 0.53}, "items": 97, "left_out": 3, …}

Every field that we write must hold a value of our kind. What else a killed run, a disk that lost power or an editor
left behind is passed over line by line, and counted. Memory: a line, whatever the file.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from umt_ds.engine.readback import is_file, parse_json, refuse_no_file, unreadable

METRICS = "metrics.jsonl"
Record = dict[str, Any]

# What `engine.report` writes beside the losses of the task, each a number.
COUNTS = ("step", "draws", "attempt", "bad_samples", "skipped_steps", "data_stall_rank", "slowest_rank")
MEASURES = (
    "epoch", "lr", "grad_norm", "clips_per_s", "clips_per_s_per_device", "data_stall_percent", "slowest_rank_ms",
    "mfu_percent", "gflops_per_clip", "peak_memory_gib",
)  # fmt: skip
_TEXTS = ("digest", "digest_total", "mask_digest_total")
LONGEST_LINE = 1 << 20  # bytes; ours have 600
SCORES = "scores"  # the `kind` of a record of an evaluation; a record of a step has none


@dataclass(frozen=True)
class ScoresRecord:
    """What one evaluation found after `step` steps. A score is of `items` items; `left_out` more could not be read."""

    step: int
    evaluation: str  # its name in the run
    values: Mapping[str, float]  # metric → number
    items: int
    left_out: int
    seconds: float  # that it took; NaN where it is not said
    protocol: Mapping[str, Any] = field(default_factory=dict)  # what one must know to repeat the numbers
    attempt: int = 1
    by_type: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # as of `evaluation.evaluator.Scores`


@dataclass
class OddLines:
    """How many lines of a file are no records, and which is the first (from 1)."""

    count: int = 0
    first: int = 0

    def add(self, line: int) -> None:
        self.first = self.first or line
        self.count += 1

    def told(self, path: Path) -> str:
        """The sentence for a user; empty where there is nothing to tell."""
        if not self.count:
            return ""
        lines = f"{self.count} lines of {path} are no records" if self.count > 1 else f"1 line of {path} is no record"
        return f"{lines}, first at line {self.first}: passed over"


def read_records(path: Path, odd: OddLines | None = None) -> Iterator[Record]:
    """The records of the logged steps, in the order written; `odd` counts the lines that are no record of any kind.

    Each has `step` and `attempt` (1 where it is not said), whole numbers, and `digest`, a text. `draws` and other
    COUNTS are whole numbers, MEASURES and `loss` numbers (NaN and infinities too), where they are there. Raises
    MachineError where the file cannot be read; without one there are no records.
    """
    return (record for record in _read(path, odd) if not isinstance(record, ScoresRecord))


def read_scores(path: Path, odd: OddLines | None = None) -> Iterator[ScoresRecord]:
    """The records of the evaluations, as `read_records`. Of an evaluation that ran twice at a step the later counts."""
    return (record for record in _read(path, odd) if isinstance(record, ScoresRecord))


def scored_since_trained(path: Path, step: int) -> set[str]:
    """The evaluations that have scores at `step` of what was last trained up to it. A run that began again, perhaps
    with other settings, logs the step once more: its earlier scores say nothing of these weights. Raises as
    `read_records`.
    """
    scored: set[str] = set()
    for record in _read(path, None):
        if isinstance(record, ScoresRecord):
            if record.step == step:
                scored.add(record.evaluation)
        elif record["step"] == step:
            scored.clear()
    return scored


def _read(path: Path, odd: OddLines | None) -> Iterator[Record | ScoresRecord]:
    odd = OddLines() if odd is None else odd
    refuse_no_file(path)
    if not is_file(path):
        return
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file), start=1):
                record = _record_in(line)
                if record is not None:
                    yield record
                elif line.strip():
                    odd.add(number)
    except OSError as error:
        raise unreadable(path, error) from error


def read_metrics(run: Path, odd: OddLines | None = None) -> dict[int, Record]:
    """The record of each logged step, as `read_records`: of steps that ran twice (after a kill), the later one."""
    return {record["step"]: record for record in read_records(run / METRICS, odd)}


def number_in(record: Record, name: str) -> float:
    """One number of a record; NaN where it has none of that name."""
    value = record.get(name)
    return float(value) if is_number(value) else math.nan


def is_number(value: object) -> TypeGuard[int | float]:
    """Is it a number that a float can hold, NaN and infinities included?"""
    if isinstance(value, float):
        return True
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; in place of one that is too long for a record two words, whatever is in it."""
    while line := file.readline(LONGEST_LINE):
        yield line if len(line) < LONGEST_LINE else b"too long"
        while not line.endswith(b"\n") and (line := file.readline(LONGEST_LINE)):
            pass


def _record_in(line: bytes) -> Record | ScoresRecord | None:
    try:
        found = parse_json(line)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    return _scores_in(found) if found.get("kind") == SCORES else _step_in(found)


def _step_in(found: Record) -> Record | None:
    if not {"step", "digest"} <= found.keys():
        return None
    found.setdefault("attempt", 1)
    fits = (
        all(map(_is_plain, found))
        and all(_is_count(found[name]) for name in COUNTS if name in found)
        and all(is_number(found[name]) for name in (*MEASURES, "loss") if name in found)
        and all(_is_plain(found[name]) for name in _TEXTS if name in found)
    )
    return found if fits else None


def _scores_in(found: Record) -> ScoresRecord | None:
    record = {"seconds": math.nan, "protocol": {}, "attempt": 1, "by_type": {}, **found}
    fits = (
        all(_is_count(record.get(name)) for name in ("step", "items", "left_out", "attempt"))
        and _is_plain(record.get("evaluation"))
        and _are_numbers(record.get("values"))
        and isinstance(record["by_type"], dict)
        and all(map(_are_numbers, record["by_type"].values()))
        and is_number(record["seconds"])
        and isinstance(record["protocol"], dict)
    )
    if not fits:
        return None
    values = {name: float(value) for name, value in record["values"].items()}
    names = ("step", "evaluation", "items", "left_out", "seconds", "protocol", "attempt", "by_type")
    return ScoresRecord(values=values, **{name: record[name] for name in names})


def _are_numbers(value: object) -> bool:
    """Numbers by printable names."""
    return isinstance(value, dict) and all(name.isprintable() and is_number(one) for name, one in value.items())


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_plain(value: object) -> bool:
    """Text that any terminal and page takes."""
    return isinstance(value, str) and value.isascii() and value.isprintable()
