"""Weights from wherever they lie: a weight file, or a run or checkpoint folder of ours."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from umt_ds.engine.checkpoint_files import read_checkpoint_weights
from umt_ds.weights.load import read_state


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name. Raises WeightsError or CheckpointError on anything missing, altered or untrusted."""
    if not path.is_dir():
        return read_state(path)
    return read_checkpoint_weights(path)


def state_fingerprint(state: Mapping[str, Tensor]) -> str:
    """A hash of names, shapes and values: the same weights from another path are the same weights."""
    content = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        tensor = state[name].detach().float().contiguous()
        content.update(f"{name} {tuple(tensor.shape)}".encode())
        content.update(tensor.numpy().tobytes())
    return content.hexdigest()
