"""Any text as a table, list, class list or annotations: what its readers give stands in the file at the line they say,
no line is lost, or it is refused in words."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.clip import Listing
from data_prep.sources.folder import list_folder
from data_prep.sources.kinetics import list_kinetics
from data_prep.sources.pairs import list_pairs
from data_prep.sources.path_label import list_path_label
from data_prep.sources.something import list_something
from data_prep.sources.spans import list_spans
from data_prep.sources.webvid import list_webvid
from data_prep.tables.class_list import read_class_list
from data_prep.tables.labels import number_labels
from data_prep.tables.table import Row, Table, text_lines
from umt_ds.errors import UmtError

FILES = ("a.mp4", "sub/b.mp4", "sub/é.mp4", "abcdefghijk.mp4", "c.jpg")
# what tables are made of, and what breaks them
PIECES = st.sampled_from([
    *("a.mp4", "sub/b.mp4", "./a", "b", "é", "/abs/a.mp4", "abcdefghijk", "0", "1", "2.0", "-1", "1e99", "nan", "cat"),
    *(",", ",", ";", "\t", " ", "\n", "\n", "\r\n", "\r", '"', '""', "'", "\0", "\ufeff", "\u2028", "\x85", "\\", "/"),
    *("file,caption\n", "file,label\n", "youtube_id,time_start,time_end\n", "videoid,name\n", "id,name\n", "0,walk\n"),
    *("[", "]", "{", "}", ":", '{"image": "a", "caption": "x"}', '"id"', "null", "\ud83d"),
])  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=14).map("".join)
CONTENTS = TEXTS.map(lambda text: text.encode(errors="surrogatepass")) | st.binary(max_size=30)
LINE_ENDS = re.compile("\r\n|\r|\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    videos = tmp_path_factory.mktemp("tables") / "v"
    for name in FILES:
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).touch()
    return videos


def read(give: Callable[[], Any]) -> Any:
    """What a reader gives; None where it refuses in words that a terminal takes."""
    try:
        return give()
    except UmtError as error:
        str(error).encode()
        return None


def lines_of(content: bytes) -> list[str]:
    return [line.lstrip("\ufeff") for line in LINE_ENDS.split(content.decode())]


def bare(line: str) -> str:
    return re.sub(r'[\s"]', "", line).casefold()


@given(content=CONTENTS)
def test_each_line_of_a_text_is_given_once_with_its_number(folder: Path, content: bytes) -> None:
    path = folder.parent / "l.txt"
    path.write_bytes(content)
    rows = read(lambda: list(text_lines(path)))
    if rows is not None:
        kept = [(n, line.strip()) for n, line in enumerate(lines_of(content), start=1) if line.strip()]
        assert [(line, cells[0]) for line, cells in rows] == kept


@given(header=st.sampled_from(["file,caption", "file;caption;start", '"file"\tcaption']), body=TEXTS)
def test_no_line_of_a_table_is_lost(folder: Path, header: str, body: str) -> None:
    path = folder.parent / "c.csv"
    path.write_bytes(content := f"{header}\n{body}".encode(errors="surrogatepass"))
    table = read(lambda: Table(path, columns=("file", "caption")))
    rows = read(lambda: list(table))
    if rows is None:
        return
    lines = [*lines_of(content), ""]
    bounds = [1, *(line for line, _ in rows), len(lines)]
    for (begin, end), (_, cells) in zip(pairwise(bounds), [Row(1, ()), *rows], strict=True):
        text = "\n".join(lines[begin - 1 : end - 1])
        parts = [part for cell in cells for part in LINE_ENDS.split(cell)]
        assert all(part in text or part in text.replace('""', '"') for part in parts), "a quote may be written twice"
        more = [line for line in lines[begin : end - 1] if bare(line) not in ("", bare(header))]
        assert not more or '"' in text, "only a quoted text goes over several lines"


cells = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\ufeff"), max_size=6).map(str.strip)


@given(rows=st.lists(st.tuples(cells, cells).filter(any), max_size=5), delimiter=st.sampled_from(",;\t|"))
def test_what_a_csv_writer_wrote_is_read_back(folder: Path, rows: list[tuple[str, str]], delimiter: str) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("file", "caption"), *rows])
    path = folder.parent / "c.csv"
    path.write_bytes(text.getvalue().encode())
    is_header = [tuple(cell.casefold() for cell in row) == ("file", "caption") for row in rows]
    expected = [row for row, repeated in zip(rows, is_header, strict=True) if not repeated]
    assert [row for _, row in Table(path, columns=("file", "caption"))] == expected


@given(classes=st.lists(st.from_regex("[a-z]{1,5}( [a-z]{1,3},? [a-z]{2})?", fullmatch=True), min_size=1, unique=True))
def test_class_lists_of_every_form_are_read_back(folder: Path, classes: list[str]) -> None:
    numbered = list(enumerate(classes))[::-1]
    text = io.StringIO()
    csv.writer(text).writerows([("id", "name"), *numbered])
    forms = {
        "c.csv": text.getvalue(),
        "c.txt": "\n".join(f"{name} {number}" for number, name in numbered),
        "c.tsv": "\n".join(f"{number}\t{name}" for number, name in numbered),
        "c.json": json.dumps({name: number for number, name in numbered}),
        "d.json": json.dumps(classes),
    }
    for name, form in forms.items():
        (folder.parent / name).write_text(form)
        assert read_class_list(folder.parent / name) == tuple(classes)


@given(content=CONTENTS, suffix=st.sampled_from(["txt", "csv", "json"]))
def test_a_class_list_is_names_that_stand_in_it(folder: Path, content: bytes, suffix: str) -> None:
    path = folder.parent / f"c.{suffix}"
    path.write_bytes(content)
    found = read(lambda: read_class_list(path))
    if found is not None:
        assert found
        assert len(set(found)) == len(found)
        assert all(name.strip() == name for name in found)


labels = st.sampled_from(["0", "1", "01", "2.0", "+3", "-1", "-1.0", "1e1", "", "cat", "dog"])
odd = st.sampled_from(["2.5", "-2", "nan", "1_0", "1e9", "1e-400", "1" * 50]) | st.text(max_size=3).map(str.strip)


@given(column=st.lists(labels, max_size=6) | st.lists(labels | odd, max_size=6))
def test_labels_are_numbers_with_their_values_or_sorted_names_or_refused(column: list[str]) -> None:
    found = read(lambda: number_labels({cell: f"l.csv line {n}" for n, cell in enumerate(column, start=2)}))
    if found is None:
        return
    for cell in column:
        label = found.label(cell)
        if re.search(r"\d", cell) and set(cell) <= set("0123456789.eE+-"):
            assert label == (None if float(cell) == -1 else float(cell)), "a number is its own value"
        else:
            assert (label is None) == (not cell)
    named = [found.label(cell) for cell in sorted(set(column)) if cell.isascii() and cell.isalpha()]
    assert named == sorted(named)


@given(data=st.data(), content=CONTENTS)
def test_every_source_lists_clips_or_refuses(folder: Path, data: st.DataObject, content: bytes) -> None:
    def table(suffix: str) -> Path:
        path = folder.parent / f"any.{suffix}"
        path.write_bytes(content)
        return path

    suffix = data.draw(st.sampled_from(["json", "jsonl", "csv", "tsv"]))
    classes = folder.parent / "two.json"
    classes.write_text('["cat", "dog"]')
    sources: list[Callable[[], Listing]] = [
        lambda: list_folder(folder, captions=table("csv")),
        lambda: list_folder(folder, labels=table("csv"), classes=classes),
        lambda: list_spans(folder, spans=table("csv")),
        lambda: list_path_label(folder, rows=table("txt")),
        lambda: list_kinetics(folder, csv=table("csv")),
        lambda: list_webvid(folder, csv=table("csv")),
        lambda: list_pairs(folder, annotations=table(suffix)),
        lambda: list_something(folder, annotations=table("json"), labels=classes),
    ]
    listing = read(data.draw(st.sampled_from(sources)))
    if listing is None:
        return
    for clip in listing.clips:
        assert clip.source in FILES
        assert clip.label is None or listing.labels[clip.label] == clip.label_name
        assert all(text == text.strip() and text.encode() for text in clip.captions)
    assert all(left.reason for left in listing.left_out)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["a.mp4", "b", "", "x", "\ud83d", "\0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["image", "video", "caption", "captions", "id", "file_name", "image_id", "template", "label"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
)


@given(entries=st.lists(json_values, max_size=4), lines=st.booleans())
def test_json_annotations_are_rows_or_refused_with_the_entry(folder: Path, entries: list[Any], lines: bool) -> None:
    path = folder.parent / ("any.jsonl" if lines else "any.json")
    path.write_text("\n".join(map(json.dumps, entries)) if lines else json.dumps(entries))
    listing = read(lambda: list_pairs(folder, annotations=path, media="video"))
    if listing is not None:
        spoken = re.findall(r'"((?:[^"\\]|\\.)*)"', path.read_text())
        assert all(json.dumps(text)[1:-1] in spoken or "?" in text for clip in listing.clips for text in clip.captions)
    read(lambda: list_something(folder, annotations=path, labels=path))
