"""No row of a user's table is swallowed, and none is taken for what it is not: csv, lists, json and SQLite."""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from data_prep.clip import Listing, Refusal
from data_prep.sources.folder import list_folder
from data_prep.sources.kinetics import list_kinetics
from data_prep.sources.pairs import list_pairs
from data_prep.sources.path_label import list_path_label
from data_prep.sources.something import list_something
from data_prep.sources.webvid import list_webvid
from data_prep.tables.kinetics import read_kinetics
from data_prep.tables.table import Row, Table, read_json, text_lines, whole_number
from tests.support.files import touch, written
from umt_ds.errors import DataError


def refused(message: str) -> pytest.RaisesExc[DataError]:
    """The one error that says this."""
    return pytest.raises(DataError, match=re.escape(message))


def captions_in(listing: Listing) -> dict[str, tuple[str, ...]]:
    return {clip.source: clip.captions for clip in listing.clips}


def table(tmp_path: Path, content: str | bytes, *columns: str) -> Table:
    path = tmp_path / "c.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Table(path, columns=columns or ("file", "caption"))


# --- csv


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("file,caption\na,one\nb,two\n", [(2, "a", "one"), (3, "b", "two")]),
        ("\ufefffile,caption\r\na,one\r\n\r\nb,two", [(2, "a", "one"), (4, "b", "two")]),
        ("file,caption\ra,one\rb,two\r", [(2, "a", "one"), (3, "b", "two")]),  # of an old Mac
        ("\n \nfile,caption\n\n  \na,one\n", [(6, "a", "one")]),
        ("File , CAPTION\na,one\n", [(2, "a", "one")]),
        ("file;caption\na;one, two\n", [(2, "a", "one, two")]),  # Excel where a comma is for decimals
        ("file\tcaption\na\tone, two\n", [(2, "a", "one, two")]),
        ('file,caption\na,"one, ""two"""\nb,5" pipe\n', [(2, "a", 'one, "two"'), (3, "b", '5" pipe')]),
        ('file, caption\na, "one, two"\n', [(2, "a", "one, two")]),  # written by hand
        ('file,caption\na,"one\n\ntwo, 3"\nb,two\n', [(2, "a", "one\n\ntwo, 3"), (5, "b", "two")]),
        ("file,caption\n,\na,\n", [(2, "", ""), (3, "a", "")]),
        ("file,caption\na,one\u2028two\x85three\x0bfour\n", [(2, "a", "one\u2028two\x85three\x0bfour")]),
        ('"file","caption"\n"a","one"\n', [(2, "a", "one")]),
        ('file,caption\na.mp4,"Rome\n2024, summer"\n', [(2, "a.mp4", "Rome\n2024, summer")]),  # names no .mp4
    ],
)
def test_each_line_is_a_row_with_its_number(tmp_path: Path, content: str, rows: list[tuple[int, str, str]]) -> None:
    read = table(tmp_path, content)
    assert list(read) == [Row(line, (file, caption)) for line, file, caption in rows]
    assert len(read.notes) == any("\n" in caption for _, _, caption in rows)  # is a quote missing there?


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('file,caption\na,"one\nb,two\nc,three\n', "a quote is not closed, in the row that begins on line 2"),
        ('file,caption\na,one\nb,"two\nc,"three"\n', "expected after '\"', in the row that begins on line 3"),
        ('file,caption\na,"one" more\n', "in the row that begins on line 2"),
        ('file,caption\na,"one\nb",two\nc,three\n', "line 2 begins, over 2 lines, a row that has 3 fields"),
        (
            'file,caption\na.mp4,"one\nb.mp4,two\nc.mp4,three"\n',
            "line 2 begins a quoted text that holds a row: 'b.mp4,two'",
        ),
        ("file,caption\na\n", "line 2 has 1 fields, its header 2"),
        ("file,caption\n\na,one,two\n", "line 3 has 3 fields, its header 2"),
        ("file,caption\na,one\nb,t\0wo\n", "line 3 holds a NUL character"),
        ("a.mp4,one\nb.mp4,two\n", "no column file and caption; its columns are a.mp4, one"),
        ("file,caption,file\na,one,b\n", "names the column file twice: file, caption, file"),
        ("file,File,caption\na,b,one\n", "names the column file twice"),
        ("", "its columns are none\n  hint: the first line must name the columns file,caption"),
        ("file,caption\na,one\n".encode("utf-16"), "it is UTF-16\n  hint: `iconv -f UTF-16 -t UTF-8"),
        ("file,caption\na,one\n".encode("utf-16-be"), "line 1 holds a NUL character"),
        ("file,caption\na,one\nb,caf\xe9\n".encode("latin-1"), "line 3 has the byte 0xe9 after 'b,caf'"),
        (gzip.compress(b"file,caption\n", mtime=0), "it is compressed by gzip"),
        (b"PK\x03\x04\x14\0", "it is a zip or Excel file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "it is an old Excel file"),
        (b"SQLite format 3\0", "it is an SQLite database"),
        (b"\x28\xb5\x2f\xfd\0", "it is compressed by zstd"),
        ("file,caption\na,one\n".encode("utf-32"), "it is UTF-32\n  hint: `iconv -f UTF-32 -t UTF-8"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_with_its_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    with refused(message):
        list(table(tmp_path, content))


def test_what_is_not_used_or_doubtful_is_said_once(tmp_path: Path) -> None:
    read = table(
        tmp_path, 'file,caption,start,\na,one,1,\nfile,caption,start,\nb,"two\nlines",2,\nFILE,caption,start,\n'
    )
    assert [cells for _, cells in read] == [("a", "one"), ("b", "two\nlines")]
    assert read.notes == (
        "columns start, without a name of c.csv are not used",
        "c.csv repeats its header on lines 3 and 6: not taken for rows",
        "c.csv has quoted texts with line breaks in the rows that begin on line 4: is a quote missing there?",
    )


def test_rows_of_one_missing_file_are_each_reported_with_their_line(tmp_path: Path) -> None:
    csv = written(tmp_path / "c.csv", "file,caption\na,one\ngone,x\n\n,y\ngone,z\n")
    assert list_folder(touch(tmp_path / "v", "a.mp4"), captions=csv).left_out == (
        Refusal("gone", "missing: no such video (c.csv line 3)"),
        Refusal("", "names no video (c.csv line 5)"),
        Refusal("gone", "missing: no such video (c.csv line 6)"),
    )


def test_a_table_of_which_not_one_row_has_a_file_is_refused(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "a.mp4")
    with refused("none of the 2 rows of"):
        list_folder(videos, captions=written(tmp_path / "c.csv", "file,caption\n/k400/a.mp4,one\nb,two\n"))
    with refused("(outside: it does not lie below the folder that was given (line 1))"):
        list_path_label(videos, rows=written(tmp_path / "l.txt", "/k400/a.mp4 0\n"))


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        *[
            ("2", 2),
            ("2.0", 2),
            ("+2", 2),
            ("002", 2),
            ("2.", 2),
            ("20e-1", 2),
            ("-0", 0),
            (" 2 ", 2),
            (2, 2),
            (2.0, 2),
        ],
        *[("2.5", None), ("", None), ("2,0", None), ("1_0", None), ("0x2", None), ("nan", None), ("inf", None)],
        *[("1e99999999999", None), ("1e9999", None), ("9" * 9999, None), (True, None), (None, None), ("²", None)],
    ],
)
def test_whole_numbers(cell: object, value: int | None) -> None:
    assert whole_number(cell) == value


# --- lists


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path label\na.mp4 0\n", "line 1 does not end in a label: 'path label'"),
        ("a.mp4 0\npath label\n", "line 2 does not end in a label"),
        ("a.mp4,0\nb.mp4 1\n", "line 2 does not end in a label"),
        ("a.mp4 0\nb.mp4\0 1\n", "line 2 holds a NUL character"),
        ("a.mp4 0\ncaf\xe9.mp4 1\n".encode("latin-1"), "line 2 has the byte 0xe9"),
    ],
)
def test_a_line_of_a_list_that_is_no_row_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    rows = tmp_path / "l.txt"
    rows.write_bytes(content.encode() if isinstance(content, str) else content)
    with refused(message):
        list_path_label(touch(tmp_path / "v", "a.mp4", "b.mp4"), rows=rows)


def test_a_list_is_split_at_line_ends_only(tmp_path: Path) -> None:
    text = written(tmp_path / "l.txt", "\ufeffa\u2028b\x0c 0\r\n\r\n c\x85d 1\re 2")
    assert list(text_lines(text)) == [Row(1, ("a\u2028b\x0c 0",)), Row(3, ("c\x85d 1",)), Row(4, ("e 2",))]


def test_a_list_says_that_it_does_not_use_the_numbers_of_frames(tmp_path: Path) -> None:
    rows = written(tmp_path / "l.txt", "a 120 0\nb 7 0\n")
    assert list_path_label(touch(tmp_path / "v", "a.mp4", "b.mp4"), rows=rows).notes == (
        "the numbers of frames in l.txt are not used",
    )


# --- Kinetics and WebVid


def test_copies_of_a_clip_are_counted(tmp_path: Path) -> None:
    name = "0wR5jVB-WPk_000000_000010.mp4"
    csv = written(tmp_path / "k.csv", "youtube_id,time_start,time_end\n0wR5jVB-WPk,0,10\n")
    listing = list_kinetics(touch(tmp_path / "v", f"train/{name}", f"val/{name}"), csv=csv)
    assert [clip.source for clip in listing.clips] == [f"train/{name}"]
    assert "1 videos have the name of another one: a replacement was taken, else the first in sorted order" in (
        listing.notes
    )


def test_fractions_of_seconds_are_kept_and_keys_are_whole_seconds(tmp_path: Path) -> None:
    csv = written(
        tmp_path / "k.csv",
        "youtube_id,time_start,time_end,label,split,is_cc\n0wR5jVB-WPk,10.5,20.25,a,train,0\n\n"
        "0wR5jVB-WPk,10.75,20.5,b,train,0\n3caPS4FHFF8,36.0,46.0,a,val,0\n",
    )
    listing = list_kinetics(touch(tmp_path / "v", "0wR5jVB-WPk.mp4", "3caPS4FHFF8.mp4"), csv=csv)
    first, second = listing.clips
    assert (first.key, first.span_s) == ("0wR5jVB-WPk_000010_000020", (10.5, 20.25))
    assert (first.extra["time_start"], second.extra["time_start"]) == (10.5, 36)
    assert listing.left_out == (
        Refusal(
            "0wR5jVB-WPk_000010_000020",
            "repeated: line 4 repeats 2, 10.75-20.5 s and not 10.5-20.25 s, which have one key, as 'b' and not 'a'",
        ),
    )
    assert "column is_cc of k.csv is not used" in listing.notes
    assert "rows of several splits become one set (train 2, val 1)" in listing.notes


@pytest.mark.parametrize("cell", ["soon", "", "nan", "inf", "1e9", "1_0", "00:10"])
def test_times_that_are_no_seconds_are_refused_with_their_line(tmp_path: Path, cell: str) -> None:
    csv = written(tmp_path / "k.csv", f"youtube_id,time_start,time_end\n\n0wR5jVB-WPk,{cell},20\n")
    with refused(f"k.csv line 3: time_start and time_end must be seconds ({cell!r})"):
        read_kinetics(csv)


def test_numbers_as_labels_of_kinetics_keep_their_values(tmp_path: Path) -> None:
    csv = written(
        tmp_path / "k.csv", "youtube_id,time_start,time_end,label\n0wR5jVB-WPk,0,10,10.0\n3caPS4FHFF8,0,10,2\n"
    )
    listing = list_kinetics(touch(tmp_path / "v", "0wR5jVB-WPk.mp4", "3caPS4FHFF8.mp4"), csv=csv)
    assert [(clip.label, clip.label_name) for clip in listing.clips] == [(10, "10"), (2, "2")]


def test_webvid_ids_are_texts_and_rows_of_one_video_are_joined(tmp_path: Path) -> None:
    csv = tmp_path / "csv"
    csv.mkdir()
    written(csv / "0.csv", "videoid,name,page_idx\n00012,one,5\n12,,5\n")
    written(csv / "1.csv", "VideoID,Name,duration\n00012,two,5\n00012,one,5\n,x,5\n")
    listing = list_webvid(touch(tmp_path / "v", "00012.mp4", "12.mp4"), csv=csv)
    assert captions_in(listing) == {"00012.mp4": ("one", "two"), "12.mp4": ()}
    assert listing.left_out == (
        Refusal("00012", "repeated: an earlier row names this video"),
        Refusal("1.csv line 4", "names no video"),
    )
    assert listing.notes == (
        "columns page_idx, duration of csv are not used",
        "1 videos have no caption",
        "1 rows name a video of an earlier row and give it one more caption",
    )


# --- json, jsonl, tsv and SQLite


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.json", '[{"image": "a", "caption": "x", "caption": "y"}]', "an object says 'caption' twice"),
        ("p.json", '[{"image": "a", "caption": 5}]', "entry 1 is no file with captions: file 'a', captions '5'"),
        ("p.json", '[{"image": "a", "caption": 0}]', "entry 1 is no file with captions"),
        ("p.json", '[{"image": true, "caption": "x"}]', "entry 1 is no file with captions"),
        ("p.json", '[{"image": [], "caption": "x"}]', "entry 1 is no file with captions"),
        ("p.json", '[{"image": null, "caption": "x"}]', "entry 1 is no file with captions"),
        ("p.json", '[{"id": 1, "file_name": "a.jpg"}]', "entry 1 is no file with captions: image 1, 'a.jpg'"),
        ("p.jsonl", '[{"image": "a", "caption": "x"}]', "line 1 is no file with captions: [file 'a', captions 'x']"),
        ("p.json", '[[{"id": 1, "file_name": "a"}]]', "entry 1 is no file with captions: [image 1, 'a'"),
        ("p.json", '[{"image": "a", "image": "b", "caption": "x"}]', "an object says 'image' twice: a and b"),
        ("p.json", '{"image": "a", "caption": "x"}', "none of the forms"),
        ("p.json", '{"image": "a", "caption": "x"}\n{"image": "b", "caption": "y"}', "call it .jsonl"),
        ("p.json", json.dumps({f"v_{n}": {"sentences": []} for n in range(5000)}), "is none of the forms"),
        ("p.json", '{"images": [{"id": "1"}], "annotations": []}', "entry 1 of images has no id"),
        (
            "p.json",
            '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": []}',
            "image 1 is both 'a' and 'b'",
        ),
        ("p.jsonl", '{"image": "a.jpg", "caption": "x"}\n\n{"image": "a.jpg", "caption": 3}', "line 3 is no file"),
        ("p.jsonl", '{"image": "a.jpg", "caption": "x"}\n\n{"image": "a', "line 3 cannot be read as one JSON object"),
        ("p.jsonl", '{"image" "a.jpg"}', "object a line: Expecting ':' delimiter at letter 10"),
        ("p.tsv", "sentence\turl\timage\na cat\thttp://x\ta.jpg\n", "no column caption/captions/text/title"),
        (
            "p.tsv",
            "sentence\turl\tpicture\na cat\thttp://x\ta.jpg\n",
            "line 1 is neither caption, url and file",
        ),
        (
            "p.csv",
            "image,sentence\na.jpg,a cat\n",
            "title; its columns are image, sentence",
        ),
    ],
)
def test_annotations_that_cannot_be_meant_are_refused_with_their_place(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with refused(message) as caught:
        list_pairs(touch(tmp_path / "i", "a.jpg"), annotations=written(tmp_path / name, text))
    assert len(str(caught.value)) < 500
    assert "_Unchecked" not in str(caught.value)
    assert "_Coco" not in str(caught.value)


def test_rows_of_pairs_under_several_spellings_are_one_sample(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.jpg", "sub/b.jpg")
    rows = [
        {"image": "a.jpg", "caption": "one", "question_id": 1},
        {"image": f"{images}/a.jpg", "caption": "two", "answer": "no"},
        {"image": "./a", "caption": ["one", "three"]},
        {"image": "b.png", "caption": "b"},
        {"image": "/elsewhere/b.jpg", "caption": "b"},
        {"image": "", "caption": "b"},
        {"image": "film.mp4", "caption": "b"},
    ]
    listing = list_pairs(images, annotations=written(tmp_path / "p.json", json.dumps(rows)))
    assert captions_in(listing) == {"a.jpg": ("one", "two", "three"), "sub/b.jpg": ("b",)}
    assert listing.left_out == (
        Refusal("/elsewhere/b.jpg", "outside: it does not lie below the folder that was given"),
        Refusal("p.json row 6", "names no file"),
        Refusal("film.mp4", "is no image by its name"),
    )
    assert listing.notes == (
        "fields answer, question_id of p.json are not used",
        "left out 1 captions that their image has already",
        "2 images have 4 captions",
    )


def test_a_table_of_pairs_may_be_quoted_and_split_otherwise_than_its_suffix_says(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.jpg")
    for name, text in {
        "p.tsv": 'Image,Caption,answer\na.jpg,"a cat, grey",yes\n',
        "p.csv": "image\tcaption\tanswer\na.jpg\ta cat, grey\tyes\n",
        "q.tsv": "a cat, grey\thttp://x\ta.jpg\n",
    }.items():
        listing = list_pairs(images, annotations=written(tmp_path / name, text))
        assert captions_in(listing) == {"a.jpg": ("a cat, grey",)}
        assert any("answer" in note for note in listing.notes) == ("answer" in text)
    quote = written(tmp_path / "p.tsv", '"hello" he said\thttp://x\ta.jpg\n')
    assert captions_in(list_pairs(images, annotations=quote)) == {"a.jpg": ('"hello" he said',)}


def test_sqlite_rows_that_are_none_are_refused_and_other_columns_are_said(tmp_path: Path) -> None:
    images, path = touch(tmp_path / "i", "a.jpg"), tmp_path / "p.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE annos (filename, text, answer)")
        database.execute("INSERT INTO annos VALUES ('a.jpg', 'one', 'no')")
    listing = list_pairs(images, annotations=path)
    assert (captions_in(listing), listing.notes[0]) == ({"a.jpg": ("one",)}, "field answer of p.db is not used")
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO annos VALUES (NULL, 'two', 'no')")
    with refused("row 2 is no file with captions: file 'None', captions 'two'"):
        list_pairs(images, annotations=path)
    database.close()


def test_the_columns_of_sqlite_have_any_case_and_are_named_where_they_are_others(tmp_path: Path) -> None:
    def database(columns: str) -> Path:
        path = tmp_path / f"{columns[:4]}.db"
        with closing(sqlite3.connect(path)) as opened, opened:
            opened.execute(f"CREATE TABLE annos({columns})")
            opened.execute("INSERT INTO annos VALUES ('a.jpg', 'one')")
        return path

    images = touch(tmp_path / "i", "a.jpg")
    assert captions_in(list_pairs(images, annotations=database("FileName, Caption"))) == {"a.jpg": ("one",)}
    with refused("has no table annos(id, filename, caption), its table annos has the columns filename, sentence"):
        list_pairs(images, annotations=database("filename, sentence"))


def test_something_says_which_fields_it_does_not_use(tmp_path: Path) -> None:
    rows = written(
        tmp_path / "r.json",
        '[{"id": 1, "label": null, "template": "Eating [something]", "placeholders": []},'
        ' {"id": "./1.webm", "label": "x", "template": "Eating [something]"}]',
    )
    videos, labels = touch(tmp_path / "v", "1.webm"), written(tmp_path / "l.json", '{"Eating something": "0"}')
    listing = list_something(videos, annotations=rows, labels=labels)
    assert [(clip.key, clip.label, clip.captions) for clip in listing.clips] == [("1", 0, ())]
    assert listing.left_out == (
        Refusal("./1.webm", "repeated: entry 2 names the video of entry 1, and says otherwise"),
    )
    assert listing.notes == ("field placeholders of r.json is not used",)
    with refused("r.json entry 1: label 'Eating something' is not in the class list"):
        list_something(videos, annotations=rows, labels=written(tmp_path / "l.json", '{"Drinking": "0"}'))


def test_a_json_file_is_read_as_text_with_its_encoding_told(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes('\ufeff{"a": [1, {"b": "é"}]}'.encode())
    assert read_json(path) == {"a": [1, {"b": "é"}]}
    path.write_bytes('{"a":\n"é"}'.encode("latin-1"))
    with refused("line 2 has the byte 0xe9"):
        read_json(path)
