"""Whether two runs are one: what each step showed and lost, and what the last checkpoint holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from umt_ds.engine.checkpoint_files import read_tensors
from umt_ds.engine.manifest import read_checkpoint_manifest, resolve_checkpoint
from umt_ds.engine.metrics_file import read_metrics


def assert_same_run(one: Path, two: Path, *, steps: int, rtol: float | None) -> None:
    """The same `steps` steps, clips and masks; losses and norms equal bit for bit (rtol None) or to rounding."""
    a, b = read_metrics(one), read_metrics(two)
    assert sorted(a) == sorted(b) == list(range(1, steps + 1))
    for step in a:
        for exact in ("draws", "digest", "digest_total", "mask_digest_total", "lr"):
            assert a[step][exact] == b[step][exact], f"step {step}: {exact}"
        for number in ("loss", "grad_norm"):
            if rtol is None:
                assert a[step][number] == b[step][number], f"step {step}: {number}"
            else:
                assert a[step][number] == pytest.approx(b[step][number], rel=rtol), f"step {step}: {number}"


def assert_same_state(one: Path, two: Path) -> None:
    """The newest checkpoints hold the same tensors, bit for bit."""
    a, b = stored(one), stored(two)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def stored(run: Path) -> dict[str, torch.Tensor]:
    """What the newest checkpoint holds, by kind of state and name."""
    newest = resolve_checkpoint(run)
    kinds = read_checkpoint_manifest(newest).kinds
    return {f"{kind} {name}": tensor for kind in kinds for name, tensor in read_tensors(newest, kind)}
