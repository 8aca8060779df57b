"""`umt-data upgrade`: a set of an earlier version gets its index and statistics, and trains as before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pytest
from click.testing import CliRunner, Result

from data_prep.checking.verify import verify
from data_prep.cli import umt_data as command
from data_prep.making.upgrade import upgrade
from data_prep.state.claim import claim
from data_prep.state.plan import STATE_FOLDER
from data_prep.state.statistics import STATISTICS
from tests.support.shards import write_shards
from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.node_index import set_file_of
from umt_ds.data.shards.set_index import INDEX
from umt_ds.data.shards.source import ShardSource
from umt_ds.errors import DataError


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


@pytest.mark.parametrize(("name", "column"), [(INDEX, "check"), (STATISTICS, "codec")])
def test_a_file_of_another_version_is_a_fault_and_upgrade_makes_it_again(
    tmp_path: Path, name: str, column: str
) -> None:
    folder = write_shards(tmp_path / "old")
    umt_data("upgrade", folder, "--workers", 1)
    whole = (folder / name).read_bytes()
    put(folder, name, pa.ipc.open_file(whole).read_all().drop_columns([column]))
    (fault,) = verify(folder).faults
    assert fault[1].endswith(f"{name} is of another version, or no such table: it lacks its columns {column}")
    assert umt_data("upgrade", folder, "--workers", 1).stdout == f"{folder}: {name} written\n"
    assert (folder / name).read_bytes() == whole
    assert not verify(folder).faults


def put(folder: Path, name: str, table: pa.Table) -> None:
    """Another file, of which the manifest knows."""
    with pa.ipc.new_file(str(folder / name), table.schema) as writer:
        writer.write_table(table)
    told = {Path(name).stem: set_file_of(folder / name)}
    replace(load_manifest(folder), **told).save(folder)


def test_a_set_in_which_another_command_works_is_refused(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "old")
    with claim(folder / STATE_FOLDER, alone=False), pytest.raises(DataError, match="another umt-data is working in"):
        upgrade(folder)
    assert not (folder / INDEX).exists()


def test_after_a_kill_between_index_and_manifest_a_reader_is_told_of_upgrade(tmp_path: Path) -> None:
    folder, larger = write_shards(tmp_path / "set"), write_shards(tmp_path / "larger", (5, 5, 5, 5))
    for each in (folder, larger):
        upgrade(each)
    (folder / INDEX).write_bytes((larger / INDEX).read_bytes())
    with pytest.raises(DataError, match=r"index\.arrow has .* bytes") as caught:
        ShardSource(folder)
    assert f"`umt-data upgrade {folder}`" in str(caught.value.hint)
    upgrade(folder)
    assert len(ShardSource(folder)) == 15
