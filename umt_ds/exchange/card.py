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
from umt_ds.engine.metrics_file import METRICS, ScoresRecord, read_scores, scored_since_trained
from umt_ds.exchange.compare import Difference
from umt_ds.exchange.source import Source
from umt_ds.exchange.targets import TargetName, Written
from umt_ds.weights.exported import CARD, FORMAT, README
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
        "config": as_tree(source.config) if manifest is None else manifest.config,
        "config_hash": None if manifest is None else manifest.numbers_hash,
        "trained_with": {} if manifest is None else manifest.versions,
        "exported_with": versions(),
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        "licence": licence_of(source),
        "scores": [_score(one) for one in scores_of(source)],
        "files": {
            path.relative_to(folder).as_posix(): _of_file(path) for path in sorted(folder.rglob("*")) if path.is_file()
        },
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


# Presets of teachers whose weights have one known licence.
_LICENCES = {name: "OpenAI's CLIP: MIT" for name in ("clip_b16", "clip_l14", "clip_l14_336")}
_UNKNOWN = "unknown: ask whoever made them"


def licence_of(source: Source) -> dict[str, str]:
    """Of what it was trained from, as far as it is known: of its teacher, and of its BERT."""
    found = {}
    if source.teacher is not None:
        found["teacher"] = f"{source.teacher.preset}: {_LICENCES.get(source.teacher.preset, _UNKNOWN)}"
    if source.text is not None:
        found["text"] = f"{source.text.preset}: Google's BERT is Apache-2.0; other weights to begin with {_UNKNOWN}"
    return found or {"weights": _UNKNOWN}


def scores_of(source: Source) -> list[ScoresRecord]:
    """What the run of a checkpoint found of its weights: the newest score of each evaluation at its step."""
    checkpoint = source.run.checkpoint
    if checkpoint is None or source.manifest is None or checkpoint.parent.name != CHECKPOINTS:
        return []
    metrics, step = checkpoint.parent.parent / METRICS, source.manifest.step
    of_these_weights = scored_since_trained(metrics, step)
    newest = {one.evaluation: one for one in read_scores(metrics) if one.step == step}
    return [one for name, one in newest.items() if name in of_these_weights]


def _score(one: ScoresRecord) -> dict[str, Any]:
    of = {"values": dict(one.values), "items": one.items, "left_out": one.left_out}
    return {"evaluation": one.evaluation, **of, "protocol": dict(one.protocol)}


def _of_file(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def readme_of(card: Mapping[str, Any], written: Written) -> str:
    """The same for people, and how to load it."""
    step = "" if card["step"] is None else f" after {card['step']} steps"
    average = ", the moving average of its weights" if card["averaged"] else ""
    parts = {
        "How to load it": written.usage,
        "What was checked": _checked(card.get("compared")),
        "What was left out or changed": "\n".join(f"- {note}" for note in written.notes),
        "Scores": _scored(card["scores"]),
        "Licence of what it was trained from": "\n".join(f"- {part}: {of}" for part, of in card["licence"].items()),
    }
    told = "".join(f"\n## {title}\n\n{text}\n" for title, text in parts.items() if text)
    return (
        f"# {card['name']}\n\nA {card['task']} model{step}{average}, exported by umt_ds for `{card['target']}`. "
        f"`card.json` has its settings, fingerprints of its data, and the hash of each file.\n{told}"
    )


def _checked(compared: Mapping[str, Any] | None) -> str:
    """Empty before anything was compared."""
    if compared is None:
        return ""
    rows = [
        f"| {name} | {one['shape']} | {one['largest_difference']:.2g} |" for name, one in compared["outputs"].items()
    ]
    head = f"The model before and after the export, on {compared['on']}:"
    return "\n".join([head, "", "| output | shape | largest difference |", "|---|---|---|", *rows])


def _scored(scores: Sequence[Mapping[str, Any]]) -> str:
    """A line for each metric."""
    rows = [
        f"| {one['evaluation']} | {metric} | {value:.4g} | {one['items']} | {one['left_out']} |"
        for one in scores
        for metric, value in one["values"].items()
    ]
    if not rows:
        return ""
    head = ["| evaluation | metric | value | items | left out |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows, "", "How each was measured: `scores` in `card.json`."])
