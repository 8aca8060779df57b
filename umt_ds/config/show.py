"""A resolved configuration as text, as a difference, and as the two hashes a checkpoint carries."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from umt_ds.config.key_paths import flatten
from umt_ds.config.outline import experiment_in
from umt_ds.config.run import RunConfig
from umt_ds.config.yaml_text import dump_yaml


def as_tree(config: RunConfig) -> dict[str, Any]:
    """Plain JSON types, keys as users write them."""
    tree: dict[str, Any] = config.model_dump(mode="json", by_alias=True)
    return tree


def as_yaml(tree: dict[str, Any]) -> str:
    """YAML in the order of the schema; read again it is the same tree."""
    return dump_yaml(tree)


def diff_lines(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    """`key: left → right` for each leaf that differs."""
    a, b = flatten(left), flatten(right)
    absent = object()
    lines = []
    for key in sorted(a.keys() | b.keys()):
        x, y = a.get(key, absent), b.get(key, absent)
        if x != y:
            lines.append(f"{key}: {'–' if x is absent else x} → {'–' if y is absent else y}")
    return lines


def numbers_of(config: RunConfig) -> dict[str, Any]:
    """The leaves whose change makes another experiment."""
    return flatten(experiment_in(config, as_tree(config)))


def config_hash(leaves: dict[str, Any]) -> str:
    """A short hash of leaves, independent of their order."""
    return hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()[:16]
