"""Parquet files as annotations: every column but the bytes of pictures and videos, which stay where they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.tables.annotations import read_annotations
from data_prep.tables.parquet_files import ParquetFile
from tests.support.parquet import MEDIA, write_parquet


def test_pictures_are_not_read_and_their_paths_name_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [{"bytes": b"x", "path": "a.jpg"}, {"bytes": b"y", "path": None}, None]
    columns = {"image": images, "thumb": [b"1", b"2", b"3"], "caption": [["one", "two"], None, ["three"]]}
    file = write_parquet(tmp_path / "train.parquet", columns, group=2, image=MEDIA)
    asked: list[str] = []
    rows = ParquetFile.rows

    def told(self: ParquetFile, group: int, leaves: list[str]) -> list[dict[str, object]]:
        asked.extend(leaves)
        return rows(self, group, leaves)

    monkeypatch.setattr(ParquetFile, "rows", told)
    assert list(read_annotations(file)) == [
        ("train.parquet row 1", {"image": "a.jpg", "caption": ["one", "two"]}),
        ("train.parquet row 2", {}),
        ("train.parquet row 3", {"caption": ["three"]}),
    ]
    assert set(asked) == {"image.path", "caption"}
