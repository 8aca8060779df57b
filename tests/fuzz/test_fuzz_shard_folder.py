"""The manifest of a shard folder, whatever bytes it holds: a set that can be read, or an UmtError."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.shards import write_shards
from umt_ds.data.shards.manifest import MANIFEST, Manifest, load_manifest
from umt_ds.errors import UmtError

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
SHARD_FIELDS = ("file", "samples", "bytes", "sha256", "index_sha256")
FIELDS = ("name", "media", "shards", "labels", "options", "tool", "format", "num_samples", "fingerprint")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_shards(tmp_path_factory.mktemp("set"), [2, 1])
    (folder / "good.json").write_bytes((folder / MANIFEST).read_bytes())
    return folder


def read(folder: Path, data: bytes) -> Manifest | None:
    """What the reader makes of these bytes; None: it refuses them."""
    (folder / MANIFEST).write_bytes(data)
    try:
        manifest = load_manifest(folder)
    except UmtError:
        return None
    assert all(Path(shard.file).name == shard.file and shard.samples >= 0 for shard in manifest.shards)
    assert manifest.num_samples == sum(shard.samples for shard in manifest.shards)
    assert all(isinstance(label, str) for label in manifest.labels)
    return manifest


@given(st.binary(max_size=200) | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    assert read(tmp_path_factory.getbasetemp(), data) is None


@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=3),
       st.dictionaries(st.sampled_from(SHARD_FIELDS), ANYTHING, max_size=2), st.booleans())  # fmt: skip
def test_a_manifest_with_other_values(
    folder: Path, fields: dict[str, Any], shard: dict[str, Any], signed: bool
) -> None:
    """Also one whose fingerprint fits what it says."""
    record = {**json.loads((folder / "good.json").read_bytes()), **fields}
    if "shards" not in fields:
        record["shards"][0] |= shard
    if signed and "fingerprint" not in fields:
        record["fingerprint"] = _fingerprint(record)
    manifest = read(folder, json.dumps(record).encode())
    if manifest is not None:
        assert [entry.file for entry in manifest.shards] == [entry["file"] for entry in record["shards"]]


def _fingerprint(record: dict[str, Any]) -> object:
    """As records.py's docstring defines it."""
    try:
        content = [[s["file"], s["samples"], s["bytes"], s["sha256"]] for s in record["shards"]]
        excluded = record["options"].get("excluded")
        text = json.dumps([content, list(record["labels"]), *([excluded] if excluded else [])], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
    except (TypeError, KeyError, AttributeError):
        return record["fingerprint"]
