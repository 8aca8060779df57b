"""Golden files: outputs of the published modules on tiny random models, made with the authors' code.

They lie in the folder that UMT_PARITY_DIR names, else in ../shared/golden beside the repository; the key
lists of the published models always in ../shared/golden/keys. Absent files skip their tests.
"""

from __future__ import annotations

import os
from ast import literal_eval
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared" / "golden"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Any]:
    """Read a golden file by name: tensors and plain values only."""
    folder = Path(os.environ.get("UMT_PARITY_DIR", SHARED))

    def read(name: str) -> Any:
        import torch

        if not (folder / name).is_file():
            pytest.skip(f"no golden file {folder / name}: set UMT_PARITY_DIR to the folder that holds it")
        return torch.load(folder / name, map_location="cpu", weights_only=True)

    return read


@pytest.fixture(scope="session")
def published_keys() -> Callable[..., dict[str, tuple[int, ...]]]:
    """Read a list of state-dict keys and shapes: lines of `[part ]key (shape)[ dtype]`."""

    def read(name: str, *, part: str = "") -> dict[str, tuple[int, ...]]:
        path = SHARED / "keys" / name
        if not path.is_file():
            pytest.skip(f"no key list {path}")
        start = f"{part} " if part else ""
        lines = [line.removeprefix(start) for line in path.read_text().splitlines() if line.startswith(start)]
        split = [(line.split(" ", 1)[0], line[line.index("(") : line.index(")") + 1]) for line in lines]
        return {key: literal_eval(shape) for key, shape in split}

    return read
