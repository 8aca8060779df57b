"""Any file as one of a published task: every reader of every protocol gives rows of which a table can be made, or
refuses in words."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.clip import Refusal
from data_prep.making.item_table import read_items, write_table
from data_prep.protocols.known import PROTOCOLS
from data_prep.protocols.protocol import Protocol, num_texts
from tests.support.shards import write_shards
from umt_ds.data.shards.source import ShardSource
from umt_ds.errors import UmtError

READERS = list({one.read: one for one in PROTOCOLS.values()}.values())  # splits of a corpus share theirs
CLIPS = ("video7", "v_1QIUV7WYKXg", "vid7", "some/clip")

names = st.sampled_from([
    *("video", "video_id", "video_name", "clip_id", "filename", "image_id", "key", "id", "question_id", "group"),
    *("caption", "captions", "sentence", "sentences", "description", "text", "template", "label", "placeholders"),
    *("question", "answer", "answers", "answer_weights", "options", "type", "start", "end", "times", "timestamps"),
    *("duration", "annotations", "videos", "images", "info", *CLIPS),
])  # fmt: skip
texts = st.sampled_from([
    *("video7.mp4", "7", "1QIUV7WYKXg", "vid7", "some/clip.avi", "a man", "2", "0.5", "", " ", "/", "..", "."),
    *('["a", "b"]', "\ud83d", "\0", "nan", "video", "é"),
])  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.integers(-1, 8) | texts | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=6,
)
entries = st.dictionaries(names, values, max_size=6)
cells = texts | st.text(max_size=4) | st.integers(-1, 9).map(str)


def as_json(path: Path, data: st.DataObject) -> None:
    path.write_text(json.dumps(data.draw(st.lists(entries | values, max_size=4) | values | entries)))


def as_lines(path: Path, data: st.DataObject) -> None:
    path.write_text("\n".join(map(json.dumps, data.draw(st.lists(entries | values, max_size=4)))))


def as_table(path: Path, data: st.DataObject) -> None:
    columns = data.draw(st.lists(names, min_size=1, max_size=5))
    rows = [columns, *data.draw(st.lists(st.lists(cells, max_size=6), max_size=4))]
    split = data.draw(st.sampled_from([",", "\t", "|", " "]))
    path.write_bytes("\n".join(split.join(row) for row in rows).encode(errors="surrogatepass"))


def as_sqlite(path: Path, data: st.DataObject) -> None:
    columns = data.draw(st.lists(names, min_size=1, max_size=5, unique_by=str.casefold))
    of_a_cell = st.none() | st.integers(-9, 9) | st.floats() | st.binary(max_size=3) | st.sampled_from(["7", "a man"])
    rows = data.draw(st.lists(st.lists(of_a_cell, min_size=len(columns), max_size=len(columns)), max_size=4))
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE annos (" + ", ".join(f'"{name}"' for name in columns) + ")")
        database.executemany(f"INSERT INTO annos VALUES ({', '.join('?' * len(columns))})", rows)


def as_bytes(path: Path, data: st.DataObject) -> None:
    path.write_bytes(data.draw(st.binary(max_size=40)))


WRITERS: Sequence[tuple[str, Callable[[Path, st.DataObject], None]]] = (
    ("json", as_json),
    ("json", as_json),
    ("jsonl", as_lines),
    ("csv", as_table),
    ("tsv", as_table),
    ("txt", as_table),
    ("db", as_sqlite),
    ("json", as_bytes),
    ("csv", as_bytes),
    ("txt", as_bytes),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("protocols")
    write_shards(made / "base", (len(CLIPS),), key=lambda number: CLIPS[number])
    return made


def read(give: Callable[[], Any]) -> Any:
    """What a reader gives; None where it refuses in words that a terminal takes."""
    try:
        return give()
    except UmtError as error:
        str(error).encode()
        return None


@pytest.mark.parametrize("protocol", READERS, ids=lambda one: one.name)
@given(data=st.data())
def test_a_protocol_reads_rows_or_refuses(folder: Path, protocol: Protocol, data: st.DataObject) -> None:
    files = []
    for suffix, write in data.draw(st.lists(st.sampled_from(WRITERS), min_size=1, max_size=2)):
        files.append(folder / f"{len(files)}.{suffix}")
        write(files[-1], data)
    for row in read(lambda: list(protocol.read(files))) or []:
        if isinstance(row, Refusal):
            assert row.reason
        else:
            assert num_texts(row[1]) >= 0
    items = read(lambda: read_items(folder / "base", annotations=files, protocol=protocol))
    if items is None:
        return
    assert items.text().encode()
    (folder / "table" / "manifest.json").unlink(missing_ok=True)
    if read(lambda: [write_table(items, folder / "table")]):
        with closing(ShardSource(folder / "table")) as source:
            assert len(source) == len(items.items)
