"""The card of an exported model: what it is, where it came from, how good it is, how to load it; for people and for
programs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from umt_ds.config.show import as_tree
from umt_ds.engine.manifest import CHECKPOINTS, versions
from umt_ds.engine.metrics_file import METRICS, ScoresRecord, read_scores
from umt_ds.exchange.compare import Difference
from umt_ds.exchange.source import Source
from umt_ds.exchange.targets import TargetName, Written
from umt_ds.weights.model_folder import CARD, FORMAT, README
from umt_ds.whole_file import write_whole


def write_card(card: Mapping[str, Any], folder: Path, written: Written) -> None:
    """card.json and README.md."""
    write_whole(folder / CARD, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    write_whole(folder / README, readme_of(card, written))


def card_of(source: Source, target: TargetName, folder: Path) -> dict[str, Any]:
    """What card.json says of a model and of its files in `folder`, which are all there; in JSON types.
    umt_ds/exchange/README.md describes it."""
    manifest = source.manifest
    return {
        "format": FORMAT,
        "target": target,
        "task": source.config.task.kind,
        "name": source.config.name,
        "step": None if manifest is None else manifest.step,
        "averaged": source.averaged,
        "fingerprint": source.fingerprint,
        "fingerprints": _fingerprints(source),
        "config": as_tree(source.config),
        "config_hash": None if manifest is None else manifest.numbers_hash,
        "trained_with": {} if manifest is None else manifest.versions,
        "exported_with": versions(),
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        "licence": licence_of(source),
        "scores": [_score(one) for one in scores_of(source)],
        "files": {path.name: _of_file(path) for path in sorted(folder.iterdir())},
    }


def compared_on(clip: Path | None, compared: Sequence[Difference]) -> dict[str, Any]:
    """What card.json says of the comparison. clip: as of `export.export`."""
    outputs = {one.name: {"shape": list(one.shape), "largest_difference": one.largest} for one in compared}
    return {"compared": {"on": "synthetic clips" if clip is None else clip.name, "outputs": outputs}}


def _fingerprints(source: Source) -> dict[str, str]:
    """Of data, teacher and vocabulary, as its run wrote them down; the vocabulary of other weights is the one that is
    exported with them."""
    found = dict(source.manifest.fingerprints) if source.manifest is not None else {}
    if source.tokenizer is not None:
        found["vocabulary"] = source.tokenizer.fingerprint
    return found


def licence_of(source: Source) -> dict[str, str]:
    """Of the teacher, as far as it is known."""
    teacher = source.teacher
    if teacher is None:
        return {"teacher": "none in this run; weights that it began with may have had one: unknown, ask"}
    known = teacher.preset in ("clip_b16", "clip_l14")
    return {"teacher": f"{teacher.preset}: {'OpenAI CLIP, MIT' if known else 'unknown, ask'}"}


def scores_of(source: Source) -> list[ScoresRecord]:
    """The newest score of each evaluation that the run of a checkpoint made at its step."""
    checkpoint = source.run.checkpoint
    if checkpoint is None or source.manifest is None or checkpoint.parent.name != CHECKPOINTS:
        return []
    metrics = checkpoint.parent.parent / METRICS
    if not metrics.is_file():
        return []
    newest = {one.evaluation: one for one in read_scores(metrics) if one.step == source.manifest.step}
    return list(newest.values())


def _score(one: ScoresRecord) -> dict[str, Any]:
    return {"evaluation": one.evaluation, "values": one.values, "items": one.items, "left_out": one.left_out}


def _of_file(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def readme_of(card: Mapping[str, Any], written: Written) -> str:
    """The same for people, and how to load it."""
    compared = card.get("compared", {"on": "", "outputs": {}})
    scores = [f"- {one['evaluation']}: {one['values']} ({one['items']} items)" for one in card["scores"]]
    outputs = [
        f"| {name} | {one['shape']} | {one['largest_difference']:.2g} |" for name, one in compared["outputs"].items()
    ]
    lines = [
        f"# {card['name']}",
        "",
        f"A {card['task']} model, exported by umt_ds for `{card['target']}`.",
        "",
        "## How to load it",
        "",
        written.usage,
        "",
        "## What was checked",
        "",
        f"The model before and after the export, on {compared['on']}:",
        "",
        "| output | shape | largest difference |",
        "|---|---|---|",
        *outputs,
        *([] if not written.notes else ["", "## What was left out or changed", "", *(f"- {n}" for n in written.notes)]),
        *([] if not scores else ["", "## Scores", "", *scores]),
    ]
    return "\n".join(lines) + "\n"
