"""Caption files of a stranger: rows that a table can hold, or one DataError."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from data_prep.protocols import lsmdc, msrvtt, msvd
from umt_ds.data.shards.items import Item, write_items
from umt_ds.errors import DataError

PROTOCOLS = (*msrvtt.PROTOCOLS, *msvd.PROTOCOLS, *lsmdc.PROTOCOLS)
FIELDS = ("video", "video_id", "image_id", "caption", "sentence", "options", "answer", "split", "sentences", "videos")
TIMES = "\t00.00.01.000\t00.00.02.000\t00.00.01.000\t00.00.02.000"
TEXT = st.text(st.characters() | st.sampled_from("\x00\ufeff\ud83d/\\.,;\t\n\r\"'[]{} _0a"), max_size=12)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.just("video7.mp4")
ENTRY = st.dictionaries(st.sampled_from(FIELDS), SCALAR | st.lists(SCALAR, max_size=6), max_size=5)
CONTENT = (
    SCALAR | st.lists(ENTRY | SCALAR, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), st.lists(ENTRY | SCALAR))
)
LINE = st.lists(TEXT | st.sampled_from(("a_1_2 a dog", f"clip{TIMES}", "VideoID,Start,End,Language,Description", "b")))
FILE = st.one_of(
    st.tuples(st.just("a.json"), CONTENT.map(lambda content: json.dumps(content).encode())),
    st.tuples(
        st.sampled_from(("a.csv", "a.txt", "a.tsv", "a.jsonl", "a")),
        LINE.map(lambda lines: "\n".join(lines).encode(errors="replace")),
    ),
    st.tuples(st.sampled_from(("a.json", "a.csv", "a.txt", "a.db", "a.pkl")), st.binary(max_size=60)),
)


@given(st.sampled_from(PROTOCOLS), st.lists(FILE, min_size=1, max_size=2))
def test_any_file_is_rows_that_a_table_holds_or_one_error(protocol: Any, files: list[tuple[str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, (name, content) in enumerate(files):
            paths.append(Path(folder) / f"{number}-{name}")
            paths[-1].write_bytes(content)
        try:
            read = list(protocol.read(paths))
        except DataError:
            return
        rows = [one[1] for one in read if isinstance(one, tuple)]
        assert all(row["video"] and set(row) <= {"video", "caption", "options", "answer"} for row in rows)
        write_items(Path(folder) / "items.arrow", [Item(0, 0, "key", None, row) for row in rows], num_shards=1)
