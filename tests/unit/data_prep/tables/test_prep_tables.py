"""A table means what it says or is refused with its line: labels, file names, rows and columns of users' files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from data_prep.clip import Listing
from data_prep.sources.folder import list_folder
from data_prep.sources.names import FileFinder, Missing
from data_prep.sources.path_label import list_path_label
from data_prep.sources.scan import scan
from data_prep.tables.class_list import read_class_list
from tests.support.files import touch, written
from tests.support.paths import SHARED
from umt_ds.data.shards.storage import as_path
from umt_ds.errors import DataError

ANNOTATIONS = SHARED / "data" / "annotations"
there = pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason=f"{ANNOTATIONS} is not there")


def refused(message: str) -> pytest.RaisesExc[DataError]:
    """The one error that says this."""
    return pytest.raises(DataError, match=re.escape(message))


def labels_in(listing: Listing) -> dict[str, int | None]:
    return {clip.source: clip.label for clip in listing.clips}


def captions_in(listing: Listing) -> dict[str, tuple[str, ...]]:
    return {clip.source: clip.captions for clip in listing.clips}


def labelled(folder: Path, *cells: str, classes: Path | None = None) -> Listing:
    """Videos a.mp4, b.mp4, … with a table that has these cells as their labels."""
    names = [f"{letter}.mp4" for letter, _ in zip("abcdefgh", cells, strict=False)]
    table = "".join(f"{name},{cell}\n" for name, cell in zip(names, cells, strict=True))
    csv = written(folder / "labels.csv", f"file,label\n{table}")
    return list_folder(touch(folder / "v", *names), labels=csv, classes=classes)


# --- labels


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (("0.0", "1.0", "2.0", "10.0", ""), [0, 1, 2, 10, None]),  # pandas, where one row is empty
        (("0", "1", "2", "10", "-1"), [0, 1, 2, 10, None]),  # -1: no label
        (("000", "001", "010"), [0, 1, 10]),
        (("+3", "1e1", "2.", "-0", "-1.0", "٣"), [3, 10, 2, 0, None, 3]),
    ],
)
def test_whole_numbers_keep_their_value_in_any_spelling(
    tmp_path: Path, cells: tuple[str, ...], numbers: list[int | None]
) -> None:
    listing = labelled(tmp_path, *cells)
    assert list(labels_in(listing).values()) == numbers
    assert listing.labels == tuple(map(str, range(max(n for n in numbers if n is not None) + 1)))
    assert [clip.label_name for clip in listing.clips] == [None if n is None else str(n) for n in numbers]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (("0", "2.5"), "labels.csv line 3: label 2.5 is no class number"),
        (("-2", "0"), "labels.csv line 2: label -2 is no class number"),
        (("1", "1_000"), "labels.csv line 3: label 1_000 is no class number"),
        (("1", '"1,000"'), "labels.csv line 3: label 1,000 is no class number"),
        (("0", "nan"), "labels.csv line 3: label nan is no class number"),
        (("cat", "NaN"), "labels.csv line 3: label NaN is no class number"),
        (("'10'", "'2'"), "labels.csv line 2: label '10' is no class number"),
        (("[10]", "[2]"), "labels.csv line 2: label [10] is no class number"),
        (("tensor(10)", "tensor(2)"), "labels.csv line 2: label tensor(10) is no class number"),
        (('"""10"""', '"""2"""'), 'labels.csv line 2: label "10" is no class number'),
        (("1;10", "2"), "labels.csv line 2: label 1;10 is no class number"),
        (("\u22121", "0"), "labels.csv line 2: label \u22121 is no class number"),
        (("0", "1e999"), "line 3: label 1e999 is no class number"),
        (("0", "99999999999"), "line 3: label 99999999999 is no class number"),
        (("3", "cat"), "labels.csv line 2: label '3' is a number, but 'cat' (labels.csv line 3) is a name"),
    ],
)
def test_a_label_that_is_neither_a_name_nor_a_number_of_a_class_is_refused_with_its_line(
    tmp_path: Path, cells: tuple[str, ...], message: str
) -> None:
    with refused(message):
        labelled(tmp_path, *cells)


@pytest.mark.parametrize(("cells", "is_doubted"), [(("1", "2"), True), (("0", "2"), False), (("a", "b"), False)])
def test_numbers_that_begin_at_1_are_doubted(tmp_path: Path, cells: tuple[str, ...], is_doubted: bool) -> None:
    doubt = "no label is 0, some are 1: does the table count from 1?"
    assert (doubt in labelled(tmp_path, *cells).notes) == is_doubted
    named = written(tmp_path / "classes.txt", "a\nb\nc\n")
    assert (doubt in labelled(tmp_path, *cells, classes=named).notes) == is_doubted


def test_no_label_may_stand_beside_names(tmp_path: Path) -> None:
    listing = labelled(tmp_path, "dog", "-1", "cat", "")
    assert (list(labels_in(listing).values()), listing.labels) == ([1, None, 0, None], ("cat", "dog"))
    assert listing.notes == ("2 of 4 clips have a label",)


@pytest.mark.parametrize(
    ("classes", "cells", "numbers"),
    [
        ("walk\nrun\nsit\n", ("2", "0.0", "-1", "1"), [2, 0, None, 1]),
        ("walk\nrun\nsit\n", ("sit", "run", "-1", ""), [2, 1, None, None]),
        ("0\n1\n10\n2\n", ("10", "2", "0"), [2, 3, 0]),  # as sorted as text once: names, not numbers
        ("001\n000\n", ("1", "0.0", "001"), [0, 1, 0]),
        ("360\nwalk\n", ("walk", "360"), [1, 0]),
    ],
)
def test_with_a_class_list_cells_are_its_names_or_its_numbers(
    tmp_path: Path, classes: str, cells: tuple[str, ...], numbers: list[int | None]
) -> None:
    listing = labelled(tmp_path, *cells, classes=written(tmp_path / "classes.txt", classes))
    assert list(labels_in(listing).values()) == numbers
    assert listing.labels == tuple(classes.split())
    assert [clip.label_name for clip in listing.clips] == [None if n is None else listing.labels[n] for n in numbers]


@pytest.mark.parametrize(
    ("classes", "cells", "message"),
    [
        (
            "walk\nrun\n",
            ("run", "wakl"),
            "line 3: label 'wakl' is not in the class list of 2 classes",
        ),
        ("walk\nrun\n", ("2",), "line 2: label 2 is beyond the 2 classes given"),
        ("walk\nrun\n", ("0", "run"), "label '0' is a number, but 'run'"),
        ("walk\nrun\n", ("0.5",), "label 0.5 is no class number"),
        ("0\n1\n10\n", ("3",), "line 2: label '3' is not in the class list"),
    ],
)
def test_a_cell_that_the_class_list_lacks_is_refused(
    tmp_path: Path, classes: str, cells: tuple[str, ...], message: str
) -> None:
    with refused(message):
        labelled(tmp_path, *cells, classes=written(tmp_path / "classes.txt", classes))


def test_rows_without_a_file_make_no_class_but_must_make_sense(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "a.mp4")
    table = tmp_path / "l.csv"
    assert list_folder(videos, labels=written(table, "file,label\na.mp4,1\ngone.mp4,7\n")).labels == ("0", "1")
    with refused("line 3: label 7.5 is no class number"):
        list_folder(videos, labels=written(table, "file,label\na.mp4,1\ngone.mp4,7.5\n"))


def test_two_labels_of_a_file_are_compared_by_their_meaning(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "a.mp4")
    table = tmp_path / "l.csv"
    same = written(table, "file,label\na.mp4,2\n./a.mp4,2.0\na,\na.mp4,-1\n")
    assert labels_in(list_folder(videos, labels=same)) == {"a.mp4": 2}
    with refused("a.mp4 has two labels, '2' and '3': in l.csv line 2 and in l.csv line 3"):
        list_folder(videos, labels=written(table, "file,label\na.mp4,2\n./a.mp4,3\n"))
    rows = written(tmp_path / "l.txt", "a.mp4 -1\n./a.mp4 2\na 2.0\n")
    assert labels_in(list_path_label(videos, rows=rows)) == {"a.mp4": 2}
    with refused("line 2 gives a.mp4 label 3, line 1 label 2"):
        list_path_label(videos, rows=written(rows, "a.mp4 2\n./a.mp4 3\n"))
    with refused("line 2 gives a.mp4 label 3, line 1 label 2; 2 rows in all, such as l.txt line 3 gives a.mp4 label 4"):
        list_path_label(videos, rows=written(rows, "a.mp4 2\n./a.mp4 3\na 4\n"))
    with refused("in l.csv line 2 and in l.csv line 3; 2 rows in all, such as a.mp4 has two labels, '2' and '4'"):
        list_folder(videos, labels=written(table, "file,label\na.mp4,2\n./a.mp4,3\na,4\n"))


@pytest.mark.parametrize("cell", ["2", "2.0", "+2", "002"])
def test_lists_read_numbers_as_tables_do(tmp_path: Path, cell: str) -> None:
    videos = touch(tmp_path / "v", "a.mp4")
    assert labels_in(list_path_label(videos, rows=written(tmp_path / "l.txt", f"a.mp4 {cell}\n"))) == {"a.mp4": 2}
    for wrong, message in {"-2": ": label -2 is no class number", "2.5": " does not end in a label"}.items():
        with refused(f"l.txt line 1{message}"):
            list_path_label(videos, rows=written(tmp_path / "l.txt", f"a.mp4 {wrong}\n"))


# --- class lists


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.txt", "walk\nrun fast, or not\n\nsit\n"),
        ("c.csv", 'id,name\n0,walk\n1,"run fast, or not"\n2,sit\n'),  # as kinetics_400_labels.csv
        ("c.csv", ',label\n0,walk\n2,sit\n1,"run fast, or not"\n'),  # pandas
        ("c.csv", '"0","walk"\n"1","run fast, or not"\n"2","sit"\n'),
        ("c.csv", '"walk"\n"run fast, or not"\n"sit"\n'),
        ("c.txt", "walk 0\nrun fast, or not 1\nsit 2"),
        ("c.csv", 'number,name\n1.0,"run fast, or not"\n0.0,walk\n2.0,sit\n'),  # pandas
        ("c.txt", "1. run fast, or not\n0. walk\n2. sit\n"),
        ("c.txt", "0) walk\n1) run fast, or not\n2) sit\n"),
        ("c.txt", "walk=0\nsit=2\nrun fast, or not=1\n"),
        ("c.txt", "walk -> 0\nsit -> 2\nrun fast, or not -> 1\n"),
        ("c.txt", "0: walk\r\n1: run fast, or not\r\n2: sit\r\n"),
        ("c.tsv", "sit\t2\nwalk\t0\nrun fast, or not\t1\n"),
        ("c.json", '["walk", "run fast, or not", "sit"]'),
        ("c.json", '{"sit": "2", "walk": "0", "run fast, or not": "1"}'),  # as labels.json of Something-Something
        ("c.json", '{"\\"sit\\"": 2, "walk": 0, "run fast, or not": 1}'),  # as kinetics_classnames.json
        ("c.json", '{"0": "walk", "2": "sit", "1": "run fast, or not"}'),
        ("c.txt", '{"sit": 2, "walk": 0, "run fast, or not": 1}'),
    ],
)
def test_class_lists_of_every_form_give_the_same_names(tmp_path: Path, name: str, text: str) -> None:
    assert read_class_list(written(tmp_path / name, text)) == ("walk", "run fast, or not", "sit")


@pytest.mark.parametrize(
    "text",
    [
        "digit 0\ndigit 1\n",
        "0\n1\n2\n",
        "left 0\nleft 1\nright 0\nright 1\n",
        "360 flip\nwalk\n",
        "[Something] falls\nwalk\n",
    ],
)
def test_numbers_that_belong_to_names_stay_there(tmp_path: Path, text: str) -> None:
    assert read_class_list(written(tmp_path / "c.txt", text)) == tuple(text.splitlines())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.txt", "0 walk\n1 run\nsit\n3 stand\n", "line 3 has no number, unlike most others: 'sit'"),
        ("c.csv", "id,name\n0,walk\n1,run\nsit\n", "line 4 has no number, unlike most others: 'sit'"),
        ("c.txt", "abseiling\n1 run\n2 sit\n", "line 1 has no number, unlike most others: 'abseiling'"),
        ("c.csv", "0,walk\n1,run\n2,walk\n", "c.csv line 3 names 'walk', as line 1 does"),
        ("c.csv", "0,walk\n1,walk\n", "line 2 names 'walk', as line 1 does"),
        ("c.csv", "id,name\n0,walk\n1,walk\n", "line 3 names 'walk', as line 2 does"),
        ("c.txt", "0 walk\n1 walk\n", "line 2 names 'walk', as line 1 does"),
        ("c.txt", "1 walk\n2 run\n3 walk\n", "not 0 to 2"),  # counts from 1, which is told first
        ("c.csv", "0,walk\n1,run\n3,walk\n", "not 0 to 2"),
        ("c.csv", "walk,0\nrun,1\nwalk,2\n", "line 3 names 'walk', as line 1 does"),
        ("c.json", '["walk", "run", "walk"]', "names 'walk' twice"),
        ("c.json", '["walk",\n"run",\n"walk"]', "line 3 names 'walk', as line 1 does"),
        ("c.txt", "1 walk\n2 run\n", "the numbers of its 2 classes are not 0 to 1, each once: they are 1, 2"),
        ("c.txt", "1: bend\n3: crouch\n", "not 0 to 1, each once: they are 1, 3"),  # as AVA's
        ("c.csv", "id,name\n1,walk\n2,run\n", "not 0 to 1"),
        ("c.csv", "0,walk\n0,run\n", "not 0 to 1"),
        ("c.csv", "name\nwalk\nrun\n", "line 1 says 'name': is this a header, or a class"),
        ("c.csv", "id,name,split\n0,walk,a\n1,run,b\n", "more than two columns"),
        ("c.json", '{"walk": 1, "run": 2}', "not 0 to 1"),
        ("c.json", '{"walk": 0, "walk": 1}', "says 'walk' twice"),
        ("c.json", '{"sport": ["walk"]}', "is JSON, but no list of classes"),
        ("c.json", "[1, 2]", "is JSON, but no list of classes"),
        ("c.txt", "walk\nwalk\n", "line 2 names 'walk', as line 1 does"),
        ("c.txt", "# made by hand\nwalk\nrun\n", "line 1 is no class name: '# made by hand'"),
        ("c.yaml", "- walk\n- run\n", "line 1 is no class name: '- walk'"),
        ("c.pbtxt", 'item {\n  name: "walk"\n}\n', "line 1 is no class name: 'item {'"),
        ("c.jsonl", '{"name": "walk"}\n{"name": "run"}\n', "line 1 is no class name"),
        ("c.txt", "walk,run,sit\n", "line 1 is no class name: 'walk,run,sit'"),
        ("c.csv", "-1,none\n0,walk\n1,run\n", "not 0 to 2, each once: they are -1, 0, 1"),
        ("c.txt", "\n", "is empty"),
        ("c.json", "[]", "is empty"),
    ],
)
def test_a_class_list_that_would_shift_the_classes_is_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with refused(message):
        read_class_list(written(tmp_path / name, text))


@there
def test_published_class_lists_are_read_as_their_publishers_number_them() -> None:
    kinetics = ANNOTATIONS / "kinetics"
    by_line = read_class_list(kinetics / "label_map_k400.txt")
    assert read_class_list(kinetics / "actionclip_kinetics_400_labels.csv") == by_line  # id,name
    assert len(by_line) == 400
    for path in [*ANNOTATIONS.glob("label_maps/*.txt"), *ANNOTATIONS.glob("k710/*label_map*.txt")]:
        if path.name == "ava_label_map.txt":
            with refused("they are 1, 3, 4"):  # and were taken for names
                read_class_list(path)
        else:
            assert read_class_list(path) == tuple(line.strip() for line in path.read_text().splitlines())


# --- names of files


def find(videos: Path, name: str, **how: bool) -> str | Missing:
    return FileFinder(scan(videos, "video", "frames"), videos, **how).file_of(name)


OUTSIDE = Missing("outside: it does not lie below the folder that was given")
NONE = Missing("missing: no such video")


@pytest.mark.parametrize("anywhere", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        *("sub/n.mp4", "./sub/n.mp4", "sub//n.mp4", "sub/./n", "x/../sub/n.mp4", "sub\\n.mp4", ".\\sub\\n.mp4"),
        *("sub/n.avi", "sub/n.MP4", '"sub/n.mp4"', "' sub/n.mp4 '", " sub/n.mp4", "{root}/sub/n.mp4", "{root}//sub/n"),
        *(
            "{link}/sub/n.mp4",
            "{root}/away/../sub/n.mp4",
            "file://{root}/sub/n.mp4",
            "file:{root}/sub/n.mp4",
            "file://localhost{root}/sub/n.mp4",
        ),
        *("~/v/sub/n.mp4", "v/sub/n.mp4", "./v/sub/n.mp4"),
    ],
)
def test_a_file_is_found_by_every_spelling_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, anywhere: bool
) -> None:
    videos = touch(tmp_path / "v", "sub/n.mp4", "m.mp4")
    (tmp_path / "link").symlink_to(videos)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    name = name.format(root=videos, link=tmp_path / "link")
    for root in (videos, tmp_path / "link", Path("v")):
        assert find(root, name, anywhere=anywhere) == "sub/n.mp4"


def test_a_file_behind_a_link_is_found_by_where_it_really_lies(tmp_path: Path) -> None:
    touch(tmp_path / "disk2", "deep/x.mp4", "y.mp4")
    videos = touch(tmp_path / "v", "a.mp4")
    (videos / "more").symlink_to(tmp_path / "disk2")
    (videos / "z.mp4").symlink_to(tmp_path / "disk2" / "y.mp4")
    assert find(videos, f"{tmp_path}/disk2/deep/x.mp4") == "more/deep/x.mp4"
    assert find(videos / "more", f"{videos}/more/y.mp4") == "y.mp4"
    (videos / "more").unlink()
    assert find(videos, f"{tmp_path}/disk2/y.mp4") == "z.mp4"
    assert find(videos, f"{tmp_path}/disk2/deep/x.mp4") == OUTSIDE


def test_letters_of_two_characters_are_those_of_one(tmp_path: Path) -> None:
    """macOS takes names apart: é becomes e and an accent."""
    composed, apart = "caf\u00e9/\u00fc.mp4", "cafe\u0301/u\u0308.mp4"
    for on_disk in (composed, apart, "cafe\u0301/\u00fc.mp4"):
        videos = touch(tmp_path / str(len(on_disk)), on_disk)
        for name in (composed, apart, "caf\u00e9/\u00fc", "./cafe\u0301/\u00fc.mp4"):
            assert find(videos, name) == find(videos, name, anywhere=False) == on_disk
        assert find(videos, "u\u0308.mp4") == find(videos, "\u00fc") == on_disk
    both = touch(tmp_path / "both", composed, apart)
    assert (find(both, composed), find(both, apart)) == (composed, apart)  # what is there as spelled comes first
    assert find(both, "caf\u00e9/u\u0308.mp4") == Missing(f"2 videos have this name: {apart} and {composed}")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gone.mp4", NONE),
        ("{root}/gone.mp4", NONE),
        ("other/n.mp4", NONE),
        ("/data/k400/m.mp4", OUTSIDE),
        ("../m.mp4", OUTSIDE),
        ("sub/../../m.mp4", OUTSIDE),
        ("s3://bucket/m.mp4", OUTSIDE),
        ("file:///m.mp4", OUTSIDE),
        ("C:\\videos\\m.mp4", OUTSIDE),
        ("~nobody-here/m.mp4", NONE),
        (" ", Missing("names no video")),
        ("half \ud83d.mp4", NONE),
        ("/nul\0/m.mp4", NONE),
        ("sub", NONE),
        (".", NONE),
        ("/", OUTSIDE),
        ("sub/.h.mp4", Missing("is hidden: its name begins with a dot")),
        (".gone.mp4", NONE),
    ],
)
def test_a_name_without_a_file_gets_a_true_reason(tmp_path: Path, name: str, why: Missing) -> None:
    assert find(touch(tmp_path / "v", "sub/n.mp4", "m.mp4", "sub/.h.mp4"), name.format(root=tmp_path / "v")) == why


def test_a_name_that_two_files_have_names_both(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "x/b.mp4", "y/b.webm", "c.mp4", "c.webm", "y/c.mp4")
    assert find(videos, "b") == Missing("2 videos have this name: x/b.mp4 and y/b.webm")
    assert find(videos, "c", anywhere=False) == Missing("2 videos have this name: c.mp4 and c.webm")
    assert find(videos, "c.mp4") == "c.mp4"


def test_urls_below_a_folder_in_a_store_are_found(tmp_path: Path) -> None:
    bucket = as_path(f"memory://{tmp_path.name}")
    (bucket / "v" / "sub" / "n.mp4").write_bytes(b"x")
    for name in (f"memory://{tmp_path.name}/v/sub/n.mp4", f"{bucket}/v/sub//n", "sub/n.mp4", "n.mp4"):
        assert find(bucket / "v", name) == "sub/n.mp4"
    for name in ("memory://other/v/sub/n.mp4", "s3://b/v/sub/n.mp4", "/v/sub/n.mp4", "file:///v/sub/n.mp4"):
        assert find(bucket / "v", name) == OUTSIDE


def test_what_several_spellings_say_of_a_file_is_joined(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "a.mp4", "sub/n.mp4")
    captions = written(tmp_path / "c.csv", "file,caption\nsub/n.mp4,a cat\na.mp4,one\n./a.mp4,two\n")
    labels = written(tmp_path / "l.csv", "file,label\nn.mp4,cat\na,dog\n")
    listing = list_folder(videos, captions=captions, labels=labels)
    assert captions_in(listing) == {"a.mp4": ("one", "two"), "sub/n.mp4": ("a cat",)}
    assert labels_in(listing) == {"a.mp4": 1, "sub/n.mp4": 0}


def test_absolute_paths_below_the_folder_are_found(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "a.mp4", "b.mp4")
    rows = written(tmp_path / "l.txt", f"{videos}/a.mp4 0\n{videos}/b.mp4 1\n")
    assert labels_in(list_path_label(videos, rows=rows)) == {"a.mp4": 0, "b.mp4": 1}
    csv = written(tmp_path / "c.csv", f"file,caption\n{videos}/a.mp4,one\n")
    assert captions_in(list_folder(videos, captions=csv))["a.mp4"] == ("one",)
