"""Parquet files with pictures in them, damaged anywhere and of any columns: clips, refusals, or one error line."""

from __future__ import annotations

import io
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from data_prep.clip import Clip, Listing, Refusal
from data_prep.making.cells import with_bytes
from data_prep.sources.parquet import list_parquet
from tests.support.parquet import MEDIA, classes, write_parquet
from umt_ds.errors import UmtError


def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


PICTURE = picture()


def a_file() -> bytes:
    columns: dict[str, list[Any]] = {
        "image": [{"bytes": PICTURE, "path": f"{number}.jpg"} for number in range(6)],
        "caption": [["a", "b"], [], None, ["c"], ["d"], ["e"]],
        "label": [0, 1, -1, 0, 1, 0],
    }
    with tempfile.TemporaryDirectory() as folder:
        features = {"label": classes("a", "b"), "image": {"_type": "Image"}}
        path = write_parquet(Path(folder) / "a.parquet", columns, features=features, group=4, image=MEDIA)
        return path.read_bytes()


FILE = a_file()


def check(content: bytes) -> None:
    """Each row becomes a clip with its bytes, or a refusal with its reason; or there is one error."""
    with tempfile.TemporaryDirectory() as name:
        folder, spool = Path(name) / "hub", Path(name) / "spool"
        folder.mkdir()
        spool.mkdir()
        (folder / "a.parquet").write_bytes(content)
        try:
            listing = list_parquet(folder)
        except UmtError as error:
            refusal = error.what
        else:
            check_rows(listing, spool)
            return
    assert "\n" not in refusal


def check_rows(listing: Listing, spool: Path) -> None:
    found = list(with_bytes(listing.clips, root=listing.root, spool=spool))
    assert len(found) == len(listing.clips)
    assert all(isinstance(one, Clip) or (isinstance(one, Refusal) and one.reason) for one in found)


@given(st.integers(0, len(FILE) - 1), st.binary(min_size=1, max_size=8))
def test_a_file_that_is_damaged_anywhere_costs_its_rows_or_is_refused(place: int, wrong: bytes) -> None:
    check(FILE[:place] + wrong + FILE[place + len(wrong) :])


@given(st.sampled_from([match.start() for match in re.finditer(b"image|bytes|label|caption", FILE)]))
def test_a_name_that_is_no_text_is_a_damaged_file(place: int) -> None:
    check(FILE[:place] + b"\xff" + FILE[place + 1 :])


@given(st.integers(0, len(FILE) - 1))
def test_a_file_that_is_cut_off_is_refused(length: int) -> None:
    check(FILE[:length])


VALUES = {
    pa.binary(): st.none() | st.binary(max_size=4) | st.just(PICTURE),
    pa.string(): st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    pa.int64(): st.none() | st.integers(-3, 9),
    pa.float64(): st.none() | st.floats(),
    MEDIA: st.none()
    | st.fixed_dictionaries({"bytes": st.none() | st.just(PICTURE), "path": st.none() | st.just("a.jpg")}),
    pa.list_(pa.string()): st.none() | st.lists(st.none() | st.just("x"), max_size=2),
}
NAMES = st.sampled_from(["image", "video", "caption", "text", "label", "key", "path", "a.b", "url", ""])


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """A few rows of a few columns, of names and types that may be those of media, captions and labels."""
    num_rows = draw(st.integers(0, 3))
    columns = {}
    for name in draw(st.lists(NAMES, max_size=4, unique=True)):
        kind = draw(st.sampled_from(list(VALUES)))
        columns[name] = pa.array(draw(st.lists(VALUES[kind], min_size=num_rows, max_size=num_rows)), kind)
    return pa.table(columns)


@given(tables(), st.sampled_from([None, b"{", b'{"info": 3}', b'{"info": {"features": {"label": {"names": 3}}}}']))
def test_files_of_any_columns_are_clips_or_one_error(table: pa.Table, told: bytes | None) -> None:
    file = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata({"huggingface": told} if told else None), file)
    check(file.getvalue())
