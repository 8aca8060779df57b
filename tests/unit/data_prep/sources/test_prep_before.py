"""Clips are left out before anything is decoded: by words and language of captions, seconds and sides of headers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from data_prep.clip import Clip, Listing
from data_prep.sources.before import Before, leave_out
from data_prep.sources.folder import list_folder
from tests.support.videos import write_video
from umt_ds.data.shards.storage import as_path
from umt_ds.errors import ConfigError, DataError, MachineError


def listing(*captions: tuple[str, ...], root: Path = Path("/nowhere")) -> Listing:
    return Listing(root, tuple(Clip(f"k{n}", f"{n}.mp4", texts) for n, texts in enumerate(captions)))


def left(found: Listing) -> dict[str, str]:
    return {refusal.source: refusal.reason for refusal in found.left_out}


def test_a_clip_keeps_the_captions_of_the_right_length_and_is_left_out_where_none_is() -> None:
    before = listing(("a dog runs", "dog"), ("dog",), (), ("one two three four five",))
    found = leave_out(before, Before(min_words=2, max_words=4), workers=1)
    assert [(clip.key, clip.captions) for clip in found.clips] == [("k0", ("a dog runs",))]
    assert left(found) == {
        "1.mp4": "caption of fewer than 2 words",
        "2.mp4": "no caption",
        "3.mp4": "caption of more than 4 words",
    }
    assert "left out 1 captions of clips that keep another: 1 caption of fewer than 2 words" in found.notes
    assert found.about["kept_before"] == {"min_words": 2, "max_words": 4}


def test_without_a_wish_the_listing_is_the_same() -> None:
    before = listing(("a",))
    assert leave_out(before, Before(), workers=1) is before


def test_captions_that_are_surely_in_another_language_are_left_out_and_doubtful_ones_stay() -> None:
    pytest.importorskip("py3langid")
    texts = ["a dog runs over grass", "man surfing", "ball", "ein Hund rennt über die Wiese", "狗在草地上奔跑"]
    found = leave_out(listing(*((text,) for text in texts)), Before(language="en"), workers=1)
    assert [clip.captions[0] for clip in found.clips] == texts[:3]
    assert set(left(found).values()) == {"caption in another language than en"}
    with pytest.raises(ConfigError, match=r"'english' is none of the \d+ languages"):
        leave_out(listing(("a",)), Before(language="english"), workers=1)


def test_without_py3langid_a_language_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(MachineError, match="--language needs py3langid"):
        leave_out(listing(("a",)), Before(language="en"), workers=1)


def test_headers_say_seconds_and_sides_and_what_they_cannot_say_is_left_to_decoding(tmp_path: Path) -> None:
    for name, frames, size in (("short", 5, (64, 48)), ("long", 30, (64, 48)), ("small", 30, (48, 32))):
        write_video(tmp_path / f"{name}.mp4", frames=frames, size=size, fps=10)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    found = leave_out(list_folder(tmp_path), Before(min_seconds=1, max_seconds=10, min_side=40), workers=1)
    assert [clip.source for clip in found.clips] == ["broken.mp4", "long.mp4"]
    assert left(found) == {"short.mp4": "shorter than 1 s", "small.mp4": "short side below 40 pixels"}


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--min-words 5 is above --max-words 4"):
        Before(min_words=5, max_words=4)
    with pytest.raises(ConfigError, match="is a store"):
        leave_out(listing(("a",), root=as_path("memory://x")), Before(min_side=4), workers=1)
    pictures = Listing(tmp_path, (Clip("a", "a.jpg"),), media="image")
    with pytest.raises(ConfigError, match="pictures have no seconds"):
        leave_out(pictures, Before(min_seconds=1), workers=1)
    with pytest.raises(DataError, match="not one of the 1 clips is left: 1 no caption"):
        leave_out(listing(()), Before(min_words=1), workers=1)
