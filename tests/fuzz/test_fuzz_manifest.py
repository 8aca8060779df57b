"""Whatever a checkpoint's manifest.json holds: it is the true manifest, or a CheckpointError that can be printed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umt_ds.engine.manifest import MANIFEST, CheckpointManifest, read_checkpoint_manifest
from umt_ds.errors import CheckpointError, DamagedCheckpointError

TRUE = CheckpointManifest(
    step=4, progress={"step": 4, "draws": 32}, config={"seed": 1, "optim": {"ema_decay": 0.9}}, numbers_hash="ab",
    running_hash="cd", fingerprints={"teacher": "ef"}, world=2, zero_stage=1, precision="fp32",
    files={f"{kind}-00000.safetensors": {"bytes": 8, "sha256": "0" * 64} for kind in ("weight", "ema")},
)  # fmt: skip
CONTENT = TRUE.to_json().encode()
FIELDS = sorted(json.loads(CONTENT))

text = st.text(max_size=6) | st.sampled_from(["\ud83d", "step", "../x", "weight-00000.safetensors"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | text
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "checkpoints" / "step-00000004"
    folder.mkdir(parents=True)
    return folder


def read(place: Path, content: bytes, *, damaged: bool = True) -> CheckpointManifest | None:
    """None: refused, in words that a terminal takes; as damaged only where it may be."""
    (place / MANIFEST).write_bytes(content)
    try:
        return read_checkpoint_manifest(place)
    except CheckpointError as error:
        if isinstance(error, DamagedCheckpointError) and not damaged:
            raise
        str(error).encode()
        return None


@given(content=st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_manifest_is_refused(place: Path, content: bytes) -> None:
    assert read(place, content) is None


@given(data=st.data())
def test_a_manifest_with_other_bytes_is_refused_or_says_the_same(place: Path, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(CONTENT) - 1))
    end = data.draw(st.integers(at, min(len(CONTENT), at + 40)))
    changed = CONTENT[:at] + data.draw(st.binary(max_size=8)) + CONTENT[end:]
    assert read(place, changed) in (None, TRUE)


@given(name=st.sampled_from(FIELDS), value=values)
def test_a_field_with_another_value_is_refused(place: Path, name: str, value: Any) -> None:
    record = json.loads(CONTENT)
    changed = json.dumps({**record, name: value})
    assert read(place, changed.encode()) == (TRUE if json.dumps(record) == changed else None)


@given(name=st.sampled_from(FIELDS) | text, value=values)
def test_under_a_true_seal_every_field_is_what_it_promises_or_refused_without_being_called_damaged(
    place: Path, name: str, value: Any
) -> None:
    """Whoever can seal is another version, or a stranger who means it: nothing of that is to be replaced."""
    record = {**json.loads(CONTENT), name: value}
    record.pop("seal")
    record["seal"] = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    found = read(place, json.dumps(record).encode(), damaged=False)
    if found is None:
        return
    assert found.step == found.progress["step"] == 4
    assert all(type(count) is int and count >= 0 for count in (*found.progress.values(), found.world))
    kinds = ("weight-", "exp_avg-", "exp_avg_sq-", "ema-")
    assert all("/" not in file and file.startswith(kinds) for file in found.files)
    assert (found.ema_decay is not None) == ("ema" in found.kinds)
    assert found.ema_decay is None or type(found.ema_decay) is float
    assert all(type(stated["bytes"]) is int for stated in found.files.values())
    assert found.format == 1
    CheckpointManifest(**json.loads(found.to_json(), object_hook=lambda o: {k: v for k, v in o.items() if k != "seal"}))
