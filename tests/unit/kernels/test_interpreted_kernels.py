"""The Triton kernels, run by Triton's interpreter on the CPU, are their references: see `tests/interpreted`."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.support.paths import REPO


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_are_their_references() -> None:
    """In a process of its own: the interpreter is chosen when Triton is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "tests/interpreted"]
    env = os.environ | {"TRITON_INTERPRET": "1", "UMT_KERNELS": "triton"}
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
