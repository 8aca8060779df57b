"""A list of keys of any bytes: the keys that its lines say, or one error with file and line."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from data_prep.clip import Clip, Listing
from data_prep.leaks.exclusion import KeyList, exclude, read_keys, write_keys
from umt_ds.errors import DataError

PIECES = st.sampled_from(
    ["a", "b/c", "b/c.mp4", "./a.mp4", "a.b", "%20", "e f", "#", "# a", " ", "\t", "\n", "\r", "\r\n", "\ufeff",
     "\u2028", "\x0b", "\x85", "\0", ",", "train_key,against_key,against,kind,detail", "file,key,reason", "漢", "\x1b["]
)  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=4), max_size=12).map("".join)
CONTENTS = st.binary(max_size=80) | TEXTS.map(lambda text: text.encode(errors="surrogatepass"))
KEYS = ["a", "b/c", "e f", "#", "漢", "%20"]


def read(content: bytes) -> KeyList | None:
    """None where it is refused; anything but a DataError in a line is a failure."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys.txt"
        path.write_bytes(content)
        try:
            return read_keys(path)
        except DataError as error:
            refusal = error
    assert str(path) in refusal.what
    assert refusal.what.replace(str(path), "").isprintable()
    assert refusal.hint
    return None


@given(CONTENTS)
def test_any_file_holds_the_keys_of_its_lines_or_is_refused(content: bytes) -> None:
    found = read(content)
    if found is None:
        return
    text = content.decode()  # what is no UTF-8 is refused
    assert "\0" not in "".join(found.keys)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    keys = {
        re.sub("^[\\s\ufeff]+", "", line).rstrip(): number for number, line in reversed([*enumerate(lines, start=1)])
    }
    assert dict(found.lines) == {key: line for key, line in keys.items() if key and not key.startswith("#")}


@given(CONTENTS)
def test_what_a_list_names_is_left_out_and_nothing_else(content: bytes) -> None:
    found = read(content)
    if found is None:
        return
    listing = Listing(Path("/videos"), tuple(Clip(key, f"{key}.mp4") for key in KEYS))
    try:
        left = exclude(listing, [found])
    except DataError as error:
        refusal = error.what
    else:
        assert [clip.key for clip in left.clips] == [key for key in KEYS if key not in found.keys]
        assert [refusal.key for refusal in left.left_out] == [key for key in KEYS if key in found.keys]
        assert left.notes[0].isprintable()
        assert len(left.notes[0]) < 500
        return
    said = "is the path of a file, whose key is", "is no key of a clip, and", "exclude all 6 clips"
    assert any(words in refusal for words in said)
    assert refusal.isprintable()


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=6) | PIECES, max_size=4))
def test_keys_that_are_written_are_read_again_or_none_is_written(keys: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys.txt"
        try:
            write_keys(path, keys)
        except DataError:
            assert not path.exists()
            return
        assert read_keys(path).keys == set(keys)
