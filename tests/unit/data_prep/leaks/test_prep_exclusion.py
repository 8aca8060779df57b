"""Lists of keys for --exclude: they mean what they say, and how much of it was found is said."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.clip import Clip, Listing, Refusal
from data_prep.leaks.exclusion import exclude, read_keys, write_keys
from umt_ds.errors import DataError

LISTING = Listing(Path("/videos"), tuple(Clip(key, f"{key}.mp4") for key in ("a", "b", "c/d", "e f", "#g")))


def listed(tmp_path: Path, content: bytes, name: str = "keys.txt") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        (b"", []),
        (b"\n\n# no leaks\n", []),
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\rb\r", ["a", "b"]),  # of an old Mac
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "b"]),  # two files of Windows, one behind the other
        (b"\t\xef\xbb\xbf \xef\xbb\xbfa\n\xef\xbb\xbf \n", ["a"]),
        (b"  a\t\n\n#b\nc/d\na\n", ["a", "c/d"]),
        ("a\u2028b\x0bc\x85d\n".encode(), ["a\u2028b\x0bc\x85d"]),  # no ends of lines: a stranger's key can hold them
        (b"e f\n", ["e f"]),
    ],
)
def test_a_list_holds_the_keys_of_its_lines(tmp_path: Path, content: bytes, keys: list[str]) -> None:
    assert sorted(read_keys(listed(tmp_path, content)).keys) == keys


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a\nb\n\xff\n", r"keys\.txt .* line 3 has the byte 0xff"),
        ("a\nb\n".encode("utf-16"), r"keys\.txt .* it is UTF-16"),
        ("a\nb\n".encode("utf-16-le"), r"keys\.txt line 1 holds a NUL character"),
        (b"train_key,against_key,against,kind,detail\na,b,val,id,x\n", r"keys\.txt is a table"),
        (b"file,key,reason\n", r"keys\.txt is a table"),
        (b"\x1f\x8b\x08\x00", r"keys\.txt .* it is compressed by gzip"),
    ],
)
def test_what_is_no_list_of_keys_is_refused_with_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read_keys(listed(tmp_path, content))
    assert caught.value.hint


def test_the_hash_of_a_list_is_that_of_its_keys(tmp_path: Path) -> None:
    """As it has always been: sets made with a list keep their fingerprint."""
    one = read_keys(listed(tmp_path, b"v03\n\nv07\nnot-there\n"))
    assert one.sha256 == hashlib.sha256(b"not-there\nv03\nv07").hexdigest()
    other = read_keys(listed(tmp_path, b"# sorted otherwise\nv07\r\nnot-there\r\nv03\r\nv03\r\n", "other.txt"))
    assert one.sha256 == other.sha256


def test_an_empty_list_leaves_out_nothing_and_says_so(tmp_path: Path) -> None:
    left = exclude(LISTING, [read_keys(listed(tmp_path, b"# none found\n"))])
    assert (left.clips, left.left_out) == (LISTING.clips, ())
    assert left.notes == ("keys.txt: 0 keys, nothing to leave out",)


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (b"a\nc/d\n", "keys.txt: 2 keys, all found: 2 of 5 clips are left out"),
        (b"a\nx\ny\n", "keys.txt: 1 of 3 keys found and left out of 5 clips; not here: x, y"),
        (b"x\n", "keys.txt: 1 key, none of them here, so nothing is left out; not here: x"),
        ("\n".join(f"x{n}" for n in range(1000)).encode(), "keys.txt: 1,000 keys, none of them here, so nothing "
         "is left out; not here: x0, x1, x10, x100, x101, …"),
    ],
)  # fmt: skip
def test_how_many_keys_were_found_is_said(tmp_path: Path, content: bytes, note: str) -> None:
    assert exclude(LISTING, [read_keys(listed(tmp_path, content))]).notes == (note,)


def test_each_list_says_what_it_found_whatever_the_others_did(tmp_path: Path) -> None:
    both = [read_keys(listed(tmp_path, b"a\nb\n", "one.txt")), read_keys(listed(tmp_path, b"b\n", "two.txt"))]
    left = exclude(replace(LISTING, left_out=(Refusal("z.mp4", "missing", "z"),)), both)
    assert left.notes == (
        "one.txt: 2 keys, all found: 2 of 5 clips are left out",
        "two.txt: 1 key, all found: 1 of 5 clips are left out",
    )
    assert [(refusal.key, refusal.reason) for refusal in left.left_out[1:]] == [
        ("a", "excluded by one.txt"),
        ("b", "excluded by one.txt"),
    ]


@pytest.mark.parametrize("line", ["c/d.mp4", "./c/d.mp4", "c/d.json"])
def test_the_path_of_a_clip_is_refused_with_its_key(tmp_path: Path, line: str) -> None:
    path = listed(tmp_path, f"a\n\n{line}\n".encode())
    with pytest.raises(DataError, match=r"keys\.txt line 3: '.*c/d\..*' is the path of a file, whose key is 'c/d'"):
        exclude(LISTING, [read_keys(path)])


@pytest.mark.parametrize("line", ["a,b", "x;a", '"a"', "a\tleak", '["a", "b"]', "v.mp4,a,no label", "a # by hand"])
def test_the_row_of_a_table_is_refused_with_the_key_in_it(tmp_path: Path, line: str) -> None:
    path = listed(tmp_path, f"x\n{line}\n".encode())
    with pytest.raises(DataError, match=r"keys\.txt line 2: '.*' is no key of a clip, and 'a', a part of it, is"):
        exclude(LISTING, [read_keys(path)])


def test_a_key_with_commas_that_is_there_is_a_key(tmp_path: Path) -> None:
    listing = replace(LISTING, clips=(*LISTING.clips, Clip("a,b", "x.tar")))
    assert exclude(listing, [read_keys(listed(tmp_path, b"a,b\n"))]).left_out[0].key == "a,b"


def test_a_key_with_a_dot_that_is_there_is_a_key(tmp_path: Path) -> None:
    listing = replace(LISTING, clips=(*LISTING.clips, Clip("a.b", "x.tar")))
    assert len(exclude(listing, [read_keys(listed(tmp_path, b"a.b\n"))]).clips) == 5


def test_keys_are_written_so_that_they_are_read_again(tmp_path: Path) -> None:
    keys = ["a", "e f", "c/d", "a\u2028b", "漢字"]
    write_keys(tmp_path / "keys.txt", keys)
    assert read_keys(tmp_path / "keys.txt").keys == set(keys)
    for odd in ("#g", " a", "a\n", "a\nb", "a\rb", "", "\ufeffa"):
        with pytest.raises(DataError, match="cannot stand in a list"):
            write_keys(tmp_path / "odd.txt", [*keys, odd])
