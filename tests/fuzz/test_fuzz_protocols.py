"""Any file as one of a published task: every reader of every protocol gives rows of which a table can be made, or
refuses in words."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
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


def form(protocol: Protocol) -> object:
    """What reads its files: splits and texts of a corpus share it."""
    read = protocol.read
    return (read.func, read.keywords.get("said")) if isinstance(read, partial) else read


READERS = list({form(one): one for one in PROTOCOLS.values()}.values())
CLIPS = ("video7", "v_1QIUV7WYKXg", "vid7", "some/clip")

texts = st.sampled_from(["a man", "what is it?", "2", "is it, or not", '["a", "b"]', "nan", "é", '"'])
odd = st.sampled_from(["", " ", "/", "..", ".", "\ud83d", "\0", "0.5", "7", "1e999", "-1"])
clips = st.sampled_from(["video7.mp4", "7", "1QIUV7WYKXg", "v_1QIUV7WYKXg", "vid7", "some/clip.avi", "gone"])
seconds = st.integers(0, 9) | st.sampled_from([0.5, 3.25])
# What files of tasks say, and how it mostly looks; anything else may stand there instead.
USUAL: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("video", "video_id", "video_name", "clip_id", "filename", "image_id", "key", "dl_link"), clips),
    **dict.fromkeys(("caption", "sentence", "description", "text", "question", "label", "template"), texts),
    **dict.fromkeys(
        ("captions", "sentences", "options", "placeholders", "answer"), texts | st.lists(texts, max_size=3)
    ),
    **dict.fromkeys(("id", "question_id", "annotation_id", "type", "group"), st.integers(0, 8) | texts),
    **dict.fromkeys(("start", "end", "duration"), seconds),
    **dict.fromkeys(("times", "timestamps"), st.lists(st.lists(seconds, max_size=2), max_size=3)),
}
FORMS = (
    *(("video", "caption"), ("video", "caption", "answer"), ("video_id", "sentence"), ("key", "options", "answer")),
    *(("video_id", "question", "answer", "id"), ("video", "question", "answer", "question_id"), ("video", "start")),
    *(("video_name", "question", "question_id"), ("question_id", "answer", "type"), ("id", "label", "template")),
    *(("video", "description", "times", "annotation_id"), ("duration", "timestamps", "sentences"), ()),
)
names = st.sampled_from([*USUAL, "annotations", "videos", "images", "info"])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | odd | clips | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | clips, inner, max_size=4),
    max_leaves=6,
)


@st.composite
def some_entries(draw: st.DrawFn) -> list[Any]:
    """Objects with the same fields, of which few hold what they should not."""
    more = st.lists(names, max_size=4) if draw(st.booleans()) else st.just([])
    fields = dict.fromkeys([*draw(st.sampled_from(FORMS)), *draw(more)])
    rows = draw(st.integers(1, 4))
    entries = [{name: draw(USUAL.get(name, anything)) for name in fields} for _ in range(rows)]
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        name = draw(st.sampled_from([*fields, *fields, "caption", "\ud83d"]) | names)
        entries[draw(st.integers(0, rows - 1))][name] = draw(odd | anything)
    return entries


def as_json(path: Path, data: st.DataObject) -> None:
    entries = data.draw(some_entries())
    by_clip = st.dictionaries(clips, st.just(entries[0]) | st.just(entries), min_size=1, max_size=2)
    in_parts = st.dictionaries(names, st.just(entries), min_size=1, max_size=2)
    path.write_text(json.dumps(data.draw(st.just(entries) | st.just(entries) | by_clip | in_parts | anything)))


def as_lines(path: Path, data: st.DataObject) -> None:
    path.write_text("\n".join(map(json.dumps, data.draw(some_entries()))))


def as_table(path: Path, data: st.DataObject) -> None:
    entries = data.draw(some_entries())
    rows = [list(entries[0]), *([str(cell) for cell in entry.values()] for entry in entries)]
    split = data.draw(st.sampled_from([",", ",", "\t", "|", " "]))
    lines = [split.join(row) for row in rows[data.draw(st.integers(0, 1)) :]]
    path.write_bytes("\n".join(lines).encode(errors="surrogatepass"))


def as_sqlite(path: Path, data: st.DataObject) -> None:
    entries = data.draw(some_entries())
    columns = [name for name in entries[0] if name != "\ud83d"] or ["video"]
    rows = [[cell_of(entry.get(name)) for name in columns] for entry in entries]
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA journal_mode=OFF")
        database.execute("PRAGMA synchronous=OFF")  # it need not outlive the test
        database.execute("CREATE TABLE annos (" + ", ".join(f'"{name}"' for name in columns) + ")")
        database.executemany(f"INSERT INTO annos VALUES ({', '.join('?' * len(columns))})", rows)


def cell_of(value: object) -> object:
    """What SQLite holds of a value."""
    if isinstance(value, str):
        return value.encode(errors="surrogatepass") if "\ud83d" in value else value
    return value if isinstance(value, float) or value is None else json.dumps(value)


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


def write_files(folder: Path, data: st.DataObject) -> list[Path]:
    files = []
    for suffix, write in data.draw(st.lists(st.sampled_from(WRITERS), min_size=1, max_size=2)):
        files.append(folder / f"{len(files)}.{suffix}")
        write(files[-1], data)
    return files


def make_table(folder: Path, files: list[Path], protocol: Protocol | None) -> None:
    """A table that is as long as it should be, or words."""
    items = read(lambda: read_items(folder / "base", annotations=files, protocol=protocol))
    if items is None:
        return
    assert items.text().encode()
    (folder / "table" / "manifest.json").unlink(missing_ok=True)
    if read(lambda: [write_table(items, folder / "table")]):
        with closing(ShardSource(folder / "table")) as source:
            assert len(source) == len(items.items)


@pytest.mark.parametrize("protocol", READERS, ids=lambda one: one.name)
@given(data=st.data())
def test_a_protocol_reads_rows_or_refuses(folder: Path, protocol: Protocol, data: st.DataObject) -> None:
    files = write_files(folder, data)
    for row in read(lambda: list(protocol.read(files))) or []:
        if isinstance(row, Refusal):
            assert row.reason
        elif isinstance(row, tuple):
            assert num_texts(row[1]) >= 0
    make_table(folder, files, protocol)


@given(data=st.data())
def test_annotations_of_no_protocol_make_a_table_or_are_refused(folder: Path, data: st.DataObject) -> None:
    make_table(folder, write_files(folder, data), None)
