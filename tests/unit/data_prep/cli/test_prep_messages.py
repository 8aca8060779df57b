"""What umt-data says is short and printable, however long and odd what strangers wrote."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from data_prep.cli import main, umt_data
from data_prep.cli.making import BuildJob, summary_text
from data_prep.clip import Clip, ExecutionOptions, Listing, Refusal, RunOptions, StoreOptions
from data_prep.decode import make_sample
from data_prep.state.manifest import Summary
from data_prep.state.plan import open_plan
from tests.support.shards import write_shards
from umt_ds.data.clips import read_clip
from umt_ds.data.shards.source import ShardSource
from umt_ds.errors import DataError, UmtError, shown, some

ESCAPE = "\x1b[2J\x9b31m\ud83d\u202e"


def says(act: Callable[[], object]) -> str:
    with pytest.raises(UmtError) as caught:
        act()
    return caught.value.what


def test_a_list_is_cut_and_its_names_are_printable() -> None:
    assert some([]) == ""
    assert some(["a", ESCAPE]) == r"a, \x1b[2J\x9b31m\ud83d\u202e"
    assert some(f"n{n}" for n in range(10**6)) == "n0, n1, n2, n3, n4, …"
    assert shown("x" * 10**6, 60) == "x" * 59 + "…"


def test_files_of_one_key_are_not_all_named(tmp_path: Path) -> None:
    clips = tuple(Clip("key", f"{n}{ESCAPE}/key.mp4") for n in range(1000))
    said = says(lambda: Listing(tmp_path, clips).first_in_order())
    assert said.isprintable()
    assert len(said) < 400


def test_changed_options_are_not_told_at_their_length(tmp_path: Path) -> None:
    listing = Listing(tmp_path, (Clip("a", "a.mp4"),), about={"excluded": ["x" * 64] * 10**4, "old": 1})
    open_plan(tmp_path / "set", name="set", listing=listing, store=StoreOptions())
    other = Listing(tmp_path, listing.clips, about={f"new{n}": list(range(1000)) for n in range(99)})
    said = says(lambda: open_plan(tmp_path / "set", name="set", listing=other, store=StoreOptions(quality=80)))
    assert "another excluded ['xxxx" in said
    assert len(said) < 900


def test_a_folder_of_many_kinds_of_pictures_is_refused_in_a_line(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for first in "abcdefghij":
        for second in "abcdefghij":
            (folder / f"{first}{second}_001.jpg").touch()
    refused = make_sample(Clip("k", "frames"), root=tmp_path, media="video", store=StoreOptions())
    assert isinstance(refused, Refusal)
    assert refused.reason == "a folder with 100 kinds of numbered pictures (aa_, ab_, ac_, ad_, ae_, …)"


def test_a_sample_without_media_does_not_list_all_it_holds(tmp_path: Path) -> None:
    write_shards(tmp_path, [1], members=lambda _: {f"x{n}": b"" for n in range(500)})
    source = ShardSource(tmp_path)
    said = says(lambda: read_clip(source, next(iter(source.refs())), choose=lambda _: [0], with_record=False))
    assert said == "the sample holds no clip, only x0, x1, x2, x3, x4, …"


def test_what_a_source_forgot_to_cut_is_cut_where_it_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise DataError(f"odd: {ESCAPE} {'x' * 10**6}", hint="one\ntwo")

    monkeypatch.setitem(umt_data.commands, "fail", click.Command("fail", callback=fail))
    monkeypatch.setattr(sys, "argv", ["umt-data", "fail"])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    assert said.startswith(r"error: odd: \x1b[2J\x9b31m\ud83d\u202e xxx")
    assert said.endswith("…\n  hint: one\ntwo\n")
    assert len(said) < 2100


def test_notes_files_and_reasons_are_printable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = (Clip("a", f"a{ESCAPE}.mp4"),)
    making = BuildJob(None, None, (), False, True, ExecutionOptions(), RunOptions(workers=1))
    making.make(Listing(tmp_path, clips, notes=(f"class {ESCAPE}",)), tmp_path / "set")
    said = capsys.readouterr()
    refused = Refusal("a", f"{ESCAPE} {'x' * 1000}")
    text = summary_text(Summary(tmp_path, "set", 1, 1, 1, (refused,), 0))
    for line in [*said.out.splitlines(), *said.err.splitlines(), *text.splitlines()]:
        assert line.isprintable()
        assert len(line) < 300
