"""A sample of thousands of files, as a video of 15 minutes is: an item costs the frames that it shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.shards import frame, picture, write_shards
from umt_ds.data.clips import Clip, members_shown, pixel_members, read_clip
from umt_ds.data.shards import sample_members
from umt_ds.data.shards.items import ITEMS, Item, write_items
from umt_ds.data.shards.manifest import Part, SetFile, load_manifest
from umt_ds.data.shards.node_index import publish_index
from umt_ds.data.shards.records import Member, SampleRef, load_index, sha256_of
from umt_ds.data.shards.source import ShardSource

FRAMES = 1100


def long_sample(_: int) -> dict[str, bytes]:
    """1,100 frames that say the last two digits of their number in green, in the order in which umt-data writes them:
    that of the names, where 1000.png comes before 101.png."""
    pictures = [picture(frame(0, number, size=(2, 2))) for number in range(100)]
    files = {f"{number:03d}.png": pictures[number % 100] for number in range(FRAMES)}
    return {name: data for name, data in sorted({**files, "json": b'{"caption": "all of it"}'}.items())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of one long sample, with an index of its own."""
    folder = write_shards(tmp_path_factory.mktemp("long") / "shards", [1], members=long_sample)
    manifest = load_manifest(folder)
    replace(manifest, index=publish_index(folder, manifest.shards)).save(folder)
    return folder


@pytest.fixture(scope="module")
def table(folder: Path) -> ShardSource:
    """Two items: frames 1000 to 1019 with a label, and frames 95 to 104 without one."""
    base, out = load_manifest(folder), folder.parent / "table"
    out.mkdir()
    rows = [Item(0, 0, "a", (1000, 1019), {"label": 3}), Item(0, 0, "b", (95, 104), {"caption": "some of it"})]
    write_items(out / ITEMS, rows, num_shards=1)
    told = SetFile((out / ITEMS).stat().st_size, sha256_of(out / ITEMS))
    part = Part("../shards", base.fingerprint, 1)
    replace(base, shards=(), index=None, items=told, num_items=2, parts=(part,)).save(out)
    return ShardSource(out)


def ends(count: int) -> list[int]:
    return [0, count // 2, count - 1]


def test_its_members_are_those_of_the_shards_own_index(folder: Path) -> None:
    source = ShardSource(folder)
    own = load_index(folder / "tiny-000000.tar").members(0)
    found = source.members(source.ref(0))
    assert found == own
    assert (len(found), found[7], found[-1], found[3:9]) == (FRAMES + 1, own[7], own[-1], own[3:9])
    media, files = pixel_members(found)
    assert (media, files) == pixel_members(own)
    assert [file.suffix for file in files[998:1002]] == ["998.png", "999.png", "1000.png", "1001.png"]


def test_an_item_shows_the_frames_of_its_part(table: ShardSource) -> None:
    clips = [read_clip(table, ref, choose=ends, with_record=False) for ref in table.refs()]
    assert [clip.frame_numbers for clip in clips] == [(1000, 1010, 1019), (95, 100, 104)]
    assert [clip.frames[:, 0, 0, 1].tolist() for clip in clips] == [[0, 10, 19], [95, 0, 4]]


def test_only_the_members_that_are_shown_are_made(table: ShardSource, monkeypatch: pytest.MonkeyPatch) -> None:
    read_clip(table, table.ref(0), choose=ends, with_record=True)
    made: list[str] = []

    def member(suffix: str, *where: int) -> Member:
        made.append(suffix)
        return Member(suffix, *where)

    monkeypatch.setattr(sample_members, "Member", member)
    members_shown(table, table.ref(1), choose=ends, with_record=True)
    read_clip(table, table.ref(1), choose=ends, with_record=True)
    assert made == ["095.png", "100.png", "104.png"] * 2


def test_the_json_is_not_read_for_what_the_table_says(table: ShardSource, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    source_read = table.read

    def noted(ref: SampleRef, member: Member) -> bytes:
        read.append(member.suffix)
        return source_read(ref, member)

    monkeypatch.setattr(table, "read", noted)

    def clip(number: int, *asked: str) -> Clip:
        read.clear()
        ref = table.ref(number)
        found = read_clip(table, ref, choose=ends, with_record=True, asked=asked)
        shown = members_shown(table, ref, choose=ends, with_record=True, asked=asked)
        assert [member.suffix for member in shown] == read
        return found

    assert clip(0, "label").record == {"label": 3}
    assert "json" not in read
    assert clip(0, "label").digest(1) == clip(0).digest(1), "a digest says what is shown, not how it was read"
    assert clip(0, "label", "caption").record == {"label": 3, "caption": "all of it"}
    assert "json" in read
    assert clip(1, "label").record == {"caption": "some of it"}, "the label may stand in the json"
    assert "json" in read
