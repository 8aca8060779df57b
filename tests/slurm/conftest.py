"""A real Slurm on this machine for the tests in this folder, started once for all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent / "one_machine.sh"


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two nodes of one core each. Skips where Slurm is not installed, or cannot be started."""
    if shutil.which("sbatch") is None or shutil.which("munged") is None:
        pytest.skip("Slurm is not installed (Debian: apt-get install slurm-wlm munge)")
    if os.geteuid() != 0:
        pytest.skip("starting Slurm needs root")
    folder = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        try:
            subprocess.run(["bash", str(SCRIPT), "start", str(folder)], check=True)
            yield
        finally:
            subprocess.run(["bash", str(SCRIPT), "stop", str(folder)], check=True)
