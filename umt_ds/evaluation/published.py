"""Which published split a set is of, as the manifest of its table says it (`umt-data items --protocol`). Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from umt_ds.data.shards.manifest import Manifest
from umt_ds.errors import shown

_SAID = "published"  # of a protocol


def published_split(manifest: Manifest) -> dict[str, Any]:
    """For the protocol of a score: name of the split, the videos and texts of its files, whether papers count as many,
    and how many videos the set lacks, or items were left out. Empty where the set is of none."""
    told = manifest.options.get("protocol")
    if not isinstance(told, Mapping):
        return {}
    return {_SAID: {key: value for key, value in told.items() if not isinstance(value, list)}}  # without long lists


def gaps(protocol: Mapping[str, Any]) -> list[str]:
    """How what was scored differs from its published split. protocol: of a score, perhaps read back from a file."""
    told = protocol.get(_SAID)
    if not isinstance(told, Mapping):
        return []
    name, videos, texts = (shown(str(told.get(key)), 80) for key in ("name", "videos", "texts"))
    found = []
    if missing := told.get("num_missing"):
        found.append(f"{shown(str(missing), 80)} of the {videos} videos of {name} are missing")
    if not told.get("as_published"):
        found.append(f"the files of {name} have {videos} videos and {texts} texts, and no paper says so")
    if left_out := told.get("num_left_out"):
        found.append(f"{shown(str(left_out), 80)} items of {name} were left out by filter or split")
    if too_long := told.get("num_too_long"):
        found.append(f"{shown(str(too_long), 80)} videos are stored beyond the seconds that count in {name}")
    limit, samples = protocol.get("limit"), protocol.get("samples")
    if isinstance(limit, int) and isinstance(samples, int) and limit < samples:
        found.append(f"of the {samples} items of {name} the first {limit} are scored")
    return found
