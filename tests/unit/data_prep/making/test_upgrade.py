"""`umt-data upgrade`: a set of an earlier version gets its index and statistics, and trains as before."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from data_prep.checking.verify import verify
from data_prep.cli import umt_data as command
from data_prep.state.statistics import STATISTICS
from tests.support.shards import write_shards
from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.set_index import INDEX


def umt_data(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def digests(folder: Path) -> list[int]:
    """Of six steps."""
    plan = LoaderPlan(seed=1, global_draws=4, image_side=16, micro=4)
    loader = Loader([SourceSpec("tiny", folder, FramePolicy("sparse", 2, 4))], plan)
    return [batch.digest for step in range(6) for batch in loader.micro_batches(step)]


def test_a_set_of_an_earlier_version_trains_as_before_and_passes_verify(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "old")
    before, fingerprint = digests(folder), load_manifest(folder).fingerprint
    would = umt_data("upgrade", folder, "--dry-run").stdout
    assert would == f"would write index.arrow and statistics.arrow into {folder}\n"
    assert not (folder / INDEX).exists()
    said = umt_data("upgrade", folder, "--workers", 1).stdout
    assert said == f"{folder}: index.arrow and statistics.arrow written\n"
    assert load_manifest(folder).index
    assert load_manifest(folder).statistics
    assert umt_data("upgrade", folder).output == f"{folder} is up to date\n"
    assert (digests(folder), load_manifest(folder).fingerprint) == (before, fingerprint)
    assert not verify(folder).faults


@pytest.mark.parametrize(("name", "what"), [(INDEX, "index of the set"), (STATISTICS, "statistics of the set")])
def test_verify_finds_a_file_that_is_damaged_or_gone_and_upgrade_makes_it_again(
    tmp_path: Path, name: str, what: str
) -> None:
    folder = write_shards(tmp_path / "old")
    umt_data("upgrade", folder, "--workers", 1)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    assert verify(folder).kinds == {f"{what} missing or damaged": 1}
    (folder / name).unlink()
    assert verify(folder).faults == [(f"{what} missing or damaged", f"{name} is not there")]
    assert umt_data("upgrade", folder, "--workers", 1).stdout == f"{folder}: {name} written\n"
    assert (folder / name).read_bytes() == whole
