"""Scores that `umt eval -o FILE` wrote, read back for a page of several runs (umt_ds/README.md, "Scores")."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umt_ds.engine.readback import parse_json, read_back
from umt_ds.errors import ConfigError, DataError, quoted

_FORMAT = 1
_LARGEST = 1e300  # of a number


@dataclass(frozen=True)
class Evaluated:
    """What one evaluation of a file found for the weights of one run. where: the run or checkpoint folder, resolved;
    step: of its checkpoint, None where the file names none."""

    where: Path
    step: int | None
    evaluation: str
    values: Mapping[str, float]
    items: int
    left_out: int
    protocol: Mapping[str, Any]


def read_evaluated(file: Path) -> list[Evaluated]:
    """All scores of a file. Raises ConfigError where there is none, MachineError where the disk does not give it, and
    DataError where it is no file of `umt eval`."""
    try:
        content = parse_json(read_back(file))
    except FileNotFoundError:
        raise ConfigError(f"there is no file {file}", hint="name what `umt eval -o FILE` has written") from None
    except ValueError as error:
        raise _foreign(file, "it is no JSON") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT or not isinstance(content.get("runs"), list):
        raise _foreign(file, f"it has no format {_FORMAT} with runs")
    return [found for run in content["runs"] for found in _of_run(file, run)]


def _of_run(file: Path, run: Any) -> Iterator[Evaluated]:
    if not isinstance(run, dict) or not isinstance(run.get("weights"), str) or "\0" in run["weights"]:
        raise _foreign(file, "a run in it has no weights")
    where, step = Path(run["weights"]).resolve(), run.get("step")
    evaluations = run.get("evaluations")
    for one in evaluations if isinstance(evaluations, list) else ():
        if not isinstance(one, dict):
            raise _foreign(file, f"an evaluation of {quoted(run['weights'])} is no object")
        name, values, protocol = (one.get(key) for key in ("evaluation", "values", "protocol"))
        if not (isinstance(name, str) and isinstance(values, dict) and isinstance(protocol, dict)):
            raise _foreign(file, f"an evaluation of {quoted(run['weights'])} lacks its name, values or protocol")
        left_out = one.get("left_out")
        yield Evaluated(
            where=where,
            step=step if _is_count(step) else None,
            evaluation=name,
            values={key: value for key, value in values.items() if _is_number(value)},
            items=one["items"] if _is_count(one.get("items")) else 0,
            left_out=len(left_out) if isinstance(left_out, list) else 0,
            protocol=protocol,
        )


def _is_number(value: Any) -> bool:
    """NaN is null there; what no float can hold is none either."""
    return type(value) in (int, float) and -_LARGEST < value < _LARGEST


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _foreign(file: Path, why: str) -> DataError:
    return DataError(f"{file} holds no scores: {why}", hint="name what `umt eval -o FILE` has written")
