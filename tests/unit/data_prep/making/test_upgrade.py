"""`umt-data upgrade`: a set of an earlier version gets its index of all shards, and trains as before."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from data_prep.checking.verify import verify
from data_prep.cli import umt_data as command
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
    assert umt_data("upgrade", folder, "--dry-run").output == f"would write index.arrow into {folder}\n"
    assert not (folder / INDEX).exists()
    assert umt_data("upgrade", folder).output == f"{folder}: index.arrow written\n"
    assert load_manifest(folder).index is not None
    assert umt_data("upgrade", folder).output == f"{folder} is up to date\n"
    assert (digests(folder), load_manifest(folder).fingerprint) == (before, fingerprint)
    assert not verify(folder).faults


def test_verify_finds_an_index_that_is_damaged_or_gone(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "old")
    umt_data("upgrade", folder)
    whole = (folder / INDEX).read_bytes()
    (folder / INDEX).write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    assert verify(folder).kinds == {"index of the set missing or damaged": 1}
    (folder / INDEX).unlink()
    assert verify(folder).faults == [("index of the set missing or damaged", "index.arrow is not there")]
