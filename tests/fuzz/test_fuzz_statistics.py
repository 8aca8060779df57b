"""Kept pages of statistics, of any bytes: a page, or none, which is then counted again; never anything else."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from data_prep.state.statistics import ShardStatistics, parse_page, save_page


@lru_cache
def whole() -> bytes:
    counted = ShardStatistics()
    for number in range(5):
        record = {"caption": "a dog", "label": number, "duration_s": 1.5, "codec": "h264", "url": f"u{number}"}
        counted.add(f"clip-{number}", {"json": 9, "000.jpg": 9}, record, bytes)
    with tempfile.TemporaryDirectory() as folder:
        save_page(Path(folder) / "page.arrow", counted.page("of a tar"))
        return (Path(folder) / "page.arrow").read_bytes()


def looked_at(data: bytes) -> None:
    """Whatever is found can be asked."""
    page = parse_page(data, Path("page.arrow"))
    if page is not None:
        assert len(page.texts("key")) == len(page) == len(page.numbers("duration_s"))
        page.counts("label_name", "label")


@given(st.integers(0, len(whole()) - 1), st.integers(1, 255))
def test_a_page_with_another_byte(place: int, flipped: int) -> None:
    data = bytearray(whole())
    data[place] ^= flipped
    looked_at(bytes(data))


@given(st.integers(0, len(whole()) - 1))
def test_a_page_that_was_cut_off_is_none(end: int) -> None:
    assert parse_page(whole()[:end], Path("page.arrow")) is None


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    looked_at(data)
