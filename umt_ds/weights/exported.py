"""A model folder of ours, which `umt export --to safetensors` writes: which files there are, and what they say.
Torch-free.

    config.yaml                    the settings of its run; `task.text.vocabulary` is relative to the folder
    model.safetensors              its weights, or model.safetensors.index.json and the files that it names
    card.json                      what it is (`Card`), for programs; README.md says the same to people
    vocab.txt                      word pieces, a line each; of a model that reads text
    tokenizer_config.json          how text is split, where that is not BERT's usual way
    classes.json                   names of the rows of a head, in their order; of a classifier whose classes are known
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umt_ds.config.yaml_text import parse_yaml, read_text
from umt_ds.errors import WeightsError

CONFIG, CARD, README, CLASSES = "config.yaml", "card.json", "README.md", "classes.json"
VOCABULARY, SPLITTING = "vocab.txt", "tokenizer_config.json"
FORMAT = 1  # of card.json
_AGAIN = "copy the whole folder again, or export it anew"


@dataclass(frozen=True)
class ModelFolder:
    """path: of the folder, which is what `init.weights` and `read_weights` take, too. tree: its settings, unchecked,
    with all paths that lead into the folder made absolute (`config.check.check` makes a RunConfig of it). classes:
    names of the rows of a head, none where nobody knows them. fingerprints: of what its run depended on, the
    vocabulary among them. card: all that card.json says."""

    path: Path
    tree: dict[str, Any]
    classes: tuple[str, ...]
    fingerprints: Mapping[str, str]
    card: Mapping[str, Any]

    @property
    def vocabulary(self) -> Path | None:
        """Its word pieces; None where it reads no text."""
        path = self.path / VOCABULARY
        return path if path.is_file() else None


def is_model_folder(path: Path) -> bool:
    """Whether a folder is one of these: it has settings and a card, which no run has."""
    return (path / CONFIG).is_file() and (path / CARD).is_file()


def read_model_folder(path: Path) -> ModelFolder:
    """What a model folder says of itself; its weights are read by `weights.load.read_state(path)`. Raises WeightsError
    for a folder that is none, that another version wrote, or whose files are damaged."""
    if not is_model_folder(path):
        raise WeightsError(f"{path} is no model folder of umt: it lacks {CONFIG} or {CARD}", hint=_AGAIN)
    card = _json(path / CARD, dict)
    if card.get("format") != FORMAT:
        raise WeightsError(
            f"{path / CARD} has format {card.get('format')!r:.40}; this version reads {FORMAT}",
            hint="update umt_ds, or read it with the version that wrote it",
        )
    fingerprints = card.get("fingerprints")
    if not isinstance(fingerprints, dict) or not all(isinstance(one, str) for one in fingerprints.values()):
        raise WeightsError(f"{path / CARD} is damaged: its fingerprints are no texts", hint=_AGAIN)
    return ModelFolder(path, _settings(path), classes_in(path), fingerprints, card)


def classes_in(path: Path) -> tuple[str, ...]:
    """The names of the rows of a head that a model folder holds; none where nobody knows them. Raises WeightsError."""
    names = _json(path / CLASSES, list) if (path / CLASSES).is_file() else []
    if not all(isinstance(name, str) for name in names):
        raise WeightsError(f"{path / CLASSES} is damaged: it is no list of names", hint=_AGAIN)
    return tuple(names)


def _settings(path: Path) -> dict[str, Any]:
    tree = parse_yaml(read_text(path / CONFIG), where=str(path / CONFIG))
    if not isinstance(tree, dict) or not isinstance(tree.get("task"), dict):
        raise WeightsError(f"{path / CONFIG} holds no settings of a run", hint=_AGAIN)
    text = tree["task"].get("text")
    if isinstance(text, dict) and text.get("vocabulary") == VOCABULARY:
        text["vocabulary"] = str(path.resolve() / VOCABULARY)
    return tree


def _json(path: Path, kind: type) -> Any:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read: {error}", hint=_AGAIN) from error
    if not isinstance(found, kind):
        raise WeightsError(f"{path} is damaged: it holds no {kind.__name__}", hint=_AGAIN)
    return found
