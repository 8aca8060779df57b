"""A file appears whole or not at all, and nothing stays beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from umt_ds.whole_file import appearing, write_whole


def test_text_and_bytes_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    write_whole(path, "Kätzchen")
    assert path.read_bytes() == b"K\xc3\xa4tzchen"
    write_whole(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert list(tmp_path.iterdir()) == [path]


def test_until_the_end_the_old_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with appearing(path) as partial:
        partial.write_text("ne")
        assert path.read_text() == "old"
        partial.write_text("new")
    assert path.read_text() == "new"


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def write() -> None:
        with appearing(path) as partial:
            partial.write_text("ne")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
