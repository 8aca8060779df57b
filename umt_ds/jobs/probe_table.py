"""What probes found, as tables and as JSON. Torch-free."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from umt_ds.config.key_paths import flatten
from umt_ds.config.probes import GridPoint, ProbeKind
from umt_ds.errors import shown
from umt_ds.jobs.eval_runs import EvalRun
from umt_ds.terminal import columns

FORMAT = 1  # of the JSON file
_REASONS = 3  # clips left out that are named below a table; the JSON file names all


@dataclass(frozen=True)
class SeedScore:
    """What one training of a probe found, in percent. top5 is None where there are not more than five classes, and for
    kNN; of kNN, for which nothing is trained or chosen, all below is None, too.

    taken: the point of the grid, chosen by the training clips that were held back. best: the accuracy on the held-out
    clips of the head that is best on them, with its point. grid: of each point, what its head reached on both.
    """

    top1: float
    top5: float | None = None
    taken: GridPoint | None = None
    held_back: float | None = None
    best: float | None = None
    best_point: GridPoint | None = None
    grid: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class ProbeScore:
    """A probe of one label field. by_seed: of kNN one."""

    kind: ProbeKind
    by_seed: tuple[SeedScore, ...]


@dataclass(frozen=True)
class FieldScores:
    """field: of the labels. items: held-out clips with such a label, which are scored. train: training clips with one.
    without: held-out clips that have none. unseen: those of a class that no training clip has. chance: percent."""

    field: str
    classes: tuple[str, ...]
    items: int
    train: int
    without: int
    unseen: int
    chance: float
    probes: tuple[ProbeScore, ...]


@dataclass(frozen=True)
class ProbedRun:
    """left_out: of each set, by its role, clips that could not be read: key and reason. shared: held-out clips that are
    training clips, too. protocol: what one must know to repeat the numbers; JSON types."""

    run: EvalRun
    fingerprint: str
    step: int | None
    loaded: str
    left_out: Mapping[str, Sequence[tuple[str, str]]]
    shared: int
    fields: tuple[FieldScores, ...]
    protocol: Mapping[str, Any]


# ---------------------------------------------------------------- tables

_COLUMNS = ("probe", "top-1", "seeds", "top-5", "lr", "decay", "held back", "best on val")


def probe_text(probed: Sequence[ProbedRun]) -> str:
    """A table for each label field, and under all of them what one must know to read them."""
    names = list(dict.fromkeys(field.field for one in probed for field in one.fields))
    tables = [_table(name, probed) for name in names]
    return "\n\n".join([*tables, "\n".join([*_legend(probed), *_remarks(probed), *_protocols(probed)])])


def _table(name: str, probed: Sequence[ProbedRun]) -> str:
    found = [(one, field) for one in probed for field in one.fields if field.field == name]
    first = found[0][1]
    rows = [[name, *_COLUMNS]]
    rows += [_row(one, field, probe) for one, field in found for probe in field.probes]
    rows.append(["chance: the most common class", "", f"{first.chance:.2f}", *[""] * 6])
    about = f"{len(first.classes)} classes; {first.items} clips, probes trained on {first.train}"
    return f"{about}\n{columns(rows)}"


def _row(one: ProbedRun, field: FieldScores, probe: ProbeScore) -> list[str]:
    seeds = probe.by_seed
    return [
        one.run.name,
        probe.kind,
        _with_error(statistics.mean(seed.top1 for seed in seeds), field.items),
        f"± {statistics.stdev(seed.top1 for seed in seeds):.2f}" if len(seeds) > 1 else "-",
        _mean([seed.top5 for seed in seeds]),
        _alike([seed.taken and f"{seed.taken.lr:g}" for seed in seeds]),
        _alike([seed.taken and f"{seed.taken.weight_decay:g}" for seed in seeds]),
        _mean([seed.held_back for seed in seeds]),
        _mean([seed.best for seed in seeds]),
    ]


def standard_error(percent: float, items: int) -> float:
    """Of a share of so many items, in percent: the binomial one."""
    return math.sqrt(percent * (100 - percent) / items)


def _with_error(percent: float, items: int) -> str:
    return f"{percent:.2f} ± {standard_error(percent, items):.2f}"


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.mean(known):.2f}" if known else "-"


def _alike(values: Sequence[str | None]) -> str:
    return ", ".join(dict.fromkeys(value or "-" for value in values))


def _legend(probed: Sequence[ProbedRun]) -> Iterator[str]:
    kinds = {probe.kind: len(probe.by_seed) for one in probed for field in one.fields for probe in field.probes}
    yield "percent; ± is the binomial standard error of so many clips"
    if max(kinds.values()) > 1:
        yield f"top-1 is the mean of {max(kinds.values())} seeds, `seeds` their standard deviation"
    if set(kinds) - {"knn"}:
        yield "lr and decay are those that name most of the training clips that were held back (`held back`)"
        yield "best on val: of all heads the best, by the very clips that it is scored on: too high, often published"


def _remarks(probed: Sequence[ProbedRun]) -> Iterator[str]:
    """What a score does not cover, or covers wrongly."""
    for one in probed:
        for role, left_out in one.left_out.items():
            if left_out:
                which = "; ".join(f"{shown(key)} ({shown(reason, 120)})" for key, reason in left_out[:_REASONS])
                more = f"; and {len(left_out) - _REASONS} more" if len(left_out) > _REASONS else ""
                yield f"partial: {len(left_out)} clips of {role} left out of {one.run.name}: {which}{more}"
        if one.shared:
            yield f"{one.shared} clips of val are training clips, too, so {one.run.name}'s scores say less of new clips"
        for source, share in one.protocol["percent_trained_on"].items():
            if share:
                yield f"{share:.3g} % of val are clips of data.sources.{source}, which {one.run.name} trained on"
        for field in one.fields:
            if field.without:
                yield f"partial: {field.without} clips of val have no {field.field}, and are left out of {one.run.name}"
            if field.unseen:
                yield f"{field.unseen} clips of val are of a {field.field} that no training clip has: never right"


def _protocols(probed: Sequence[ProbedRun]) -> Iterator[str]:
    """What all runs have in common, and in what they differ."""
    protocols = [{**flatten(dict(one.protocol)), "weights": f"{one.run.weights}, {one.fingerprint}"} for one in probed]
    keys = list(dict.fromkeys(key for protocol in protocols for key in protocol))
    common, odd = [], []
    for key in keys:
        values = [shown(str(protocol.get(key, "-")), 160) for protocol in protocols]
        if len(set(values)) == 1:
            common.append(f"{key} {values[0]}")
        else:
            told = (f"{value} of {one.run.name}" for one, value in zip(probed, values, strict=True))
            odd.append(f"not alike: {key} is {', '.join(told)}")
    yield textwrap.fill(f"with {'; '.join(common)}", 120, subsequent_indent="  ", break_long_words=False)
    yield from odd
    yield from (f"{one.run.weights} into {one.run.name}: {one.loaded}" for one in probed if one.run.checkpoint is None)


# ---------------------------------------------------------------- JSON


def as_json(probed: Sequence[ProbedRun], about: Mapping[str, Any]) -> dict[str, Any]:
    """All of it. about: the machine, of JSON's types."""
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **about,
        "runs": [_run_as_json(one) for one in probed],
    }


def _run_as_json(one: ProbedRun) -> dict[str, Any]:
    return {
        "run": one.run.name,
        "name": one.run.config.name,
        "task": one.run.config.task.kind,
        "weights": str(one.run.weights),
        "fingerprint": one.fingerprint,
        "step": one.step,
        "loaded": one.loaded,
        "protocol": one.protocol,
        "left_out": {
            role: [{"key": key, "reason": reason} for key, reason in left_out]
            for role, left_out in one.left_out.items()
        },
        "shared": one.shared,
        "labels": [
            {**asdict(field), "probes": [_probe_as_json(probe, field.items) for probe in field.probes]}
            for field in one.fields
        ],
    }


def _probe_as_json(probe: ProbeScore, items: int) -> dict[str, Any]:
    values = [seed.top1 for seed in probe.by_seed]
    return {
        "kind": probe.kind,
        "top1": statistics.mean(values),
        "standard_error": standard_error(statistics.mean(values), items),
        "deviation_of_seeds": statistics.stdev(values) if len(values) > 1 else None,
        "seeds": [_seed_as_json(seed) for seed in probe.by_seed],
    }


def _seed_as_json(seed: SeedScore) -> dict[str, Any]:
    points = {"taken": seed.taken, "best_point": seed.best_point}
    return {**asdict(seed), **{name: point and point._asdict() for name, point in points.items()}}
