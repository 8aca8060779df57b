"""Nested settings by key path: `{"batch": {"micro": 64}}` is `{"batch.micro": 64}`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting with its key path (lists and empty mappings are settings). A path whose sections were written both
    nested and dotted can come twice."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def flatten(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """All settings by key path."""
    return dict(leaves(tree))
