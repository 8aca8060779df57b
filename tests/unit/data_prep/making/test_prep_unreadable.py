"""What in a folder cannot be read is in bad.csv or counted, under what it is; and every reason is true and one line."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from data_prep.clip import Clip, Refusal, Sample, StoreOptions
from data_prep.decode import make_sample
from data_prep.sources.folder import list_folder
from data_prep.sources.scan import scan
from tests.support.files import as_nobody, touch
from tests.support.videos import write_video
from umt_ds.data.pixels.video import decode
from umt_ds.errors import DataError, DecodeError


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where a user without rights may look: pytest's own folders are closed."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def reasons(folder: Path) -> dict[str, str]:
    return {refusal.source: refusal.reason for refusal in list_folder(folder).left_out}


def test_what_is_no_file_is_named_and_opens_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "x.part", "y.crdownload", "z.ytdl", "Thumbs.db", ".DS_Store")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    (tmp_path / "class1").symlink_to("/mnt/disk-that-is-away/class1")
    (tmp_path / "round.mp4").symlink_to(tmp_path / "round.mp4")
    (tmp_path / "._gone.mp4").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as listening:
        before = os.getcwd()
        os.chdir(tmp_path)  # the name of a socket must be short
        listening.bind("socket.mp4")
        os.chdir(before)
        assert reasons(tmp_path) == {
            "class1": "a link that leads nowhere",
            "gone.mp4": "a link that leads nowhere",
            "pipe.mp4": "a named pipe and no file",
            "round.mp4": "a link that leads in a circle",
            "socket.mp4": "a socket and no file",
        }
    assert "5 files or folders cannot be used (a link that leads nowhere 2, " in scan(tmp_path, "video").notes[1]
    assert scan(tmp_path, "video").ignored == {"hidden": 2, ".part": 1, ".crdownload": 1, ".ytdl": 1, ".db": 1}


def test_a_row_whose_file_cannot_be_seen_says_why(folder: Path) -> None:
    root = touch(folder / "v", "a.mp4", ".b.mp4", "closed.v1/c.mp4")
    root.chmod(0o755)
    (root / "class1").symlink_to(folder / "away")
    (root / "closed.v1").chmod(0)
    with as_nobody():
        found = scan(root, "video")
        assert found.why_unusable("closed.v1/d/c.mp4") == "closed.v1: folder cannot be read: Permission denied"
        assert found.why_unusable("class1/x.mp4") == "class1: a link that leads nowhere"
        assert found.why_unusable(".b.mp4") == "is hidden: its name begins with a dot"
        assert [found.why_unusable(name) for name in (".c.mp4", "class2/x.mp4", "/x.mp4")] == [None] * 3
    (root / "closed.v1").chmod(0o755)


def test_a_row_that_names_what_is_no_file_says_what_it_is(tmp_path: Path) -> None:
    root = touch(tmp_path / "v", "a.mp4")
    (root / "gone.mp4").symlink_to("elsewhere")
    csv = tmp_path / "c.csv"
    csv.write_text("file,caption\na.mp4,one\n./gone.mp4,two\n")
    assert scan(root, "video").why_unusable("./gone.mp4") == "a link that leads nowhere"
    (root / "b.heic").touch()
    found = scan(root, "video")
    assert found.why_unusable("b.heic") == "is none of the videos by its suffix (.heic)"
    assert [found.why_unusable(name) for name in ("c.heic", "a.mp4", "x", "../v/b\0.heic")] == [None] * 4
    assert "leads nowhere" in list_folder(root, captions=csv).left_out[-1].reason


def test_folders_without_permission_are_named_and_the_others_read(folder: Path) -> None:
    touch(folder, "a.mp4", "closed/b.mp4", "open/c.mp4")
    (folder / "closed").chmod(0)
    with as_nobody():
        listing = list_folder(folder)
    assert [clip.source for clip in listing.clips] == ["a.mp4", "open/c.mp4"]
    assert listing.left_out == (Refusal("closed", "folder cannot be read: Permission denied"),)


def test_a_folder_that_may_not_be_read_at_all_is_one_error(folder: Path) -> None:
    (folder / "closed").mkdir(mode=0)
    with as_nobody(), pytest.raises(DataError, match="closed cannot be read: Permission denied"):
        list_folder(folder / "closed")


def test_empty_folders_of_frames_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/img_00001.jpg", "more/c/img_00001.jpg", "b/.DS_Store")
    (tmp_path / "more/d").mkdir()
    (tmp_path / "e").mkdir()
    (tmp_path / "e/img_00001.jpg").symlink_to("nowhere")
    found = scan(tmp_path, "frames")
    assert found.frame_folders == ("a", "e", "more/c")
    assert [(r.source, r.reason) for r in found.unusable] == [
        ("b", "folder is empty: no frames"),
        ("more/d", "folder is empty: no frames"),
    ]


def refused(root: Path, name: str, media: str = "video") -> str:
    outcome = make_sample(Clip("k", name), root=root, media=media, store=StoreOptions(frames=2))  # type: ignore[arg-type]
    assert isinstance(outcome, Refusal)
    return outcome.reason


@pytest.mark.parametrize("name", ["v.mp4", "v.jpg", "frames/img_00002.png"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(folder: Path, name: str) -> None:
    (folder / "frames").mkdir()
    for picture in ("v.jpg", "frames/img_00001.png", "frames/img_00002.png"):
        Image.new("RGB", (16, 16)).save(folder / picture)
    write_video(folder / "v.mp4")
    (folder / name).chmod(0)
    of_frames = name.startswith("frames")
    with as_nobody():
        said = refused(folder, "frames" if of_frames else name, "image" if name == "v.jpg" else "video")
    assert said == f"{'img_00002.png ' if of_frames else ''}cannot be read: Permission denied"


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_reasons_of_pictures_are_true_and_name_the_file_among_frames(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "frames").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "frames/img_00001.png")
    for name in ("v.jpg", "frames/img_00002.png"):
        (tmp_path / name).write_bytes(content)
    alone, among = refused(tmp_path, "v.jpg", "image"), refused(tmp_path, "frames")
    assert among == f"img_00002.png: {alone}"
    assert "0x" not in alone
    assert (alone == "file is empty (0 bytes)") is not bool(content)


def test_pictures_of_rarer_suffixes_are_frames_unless_they_lie_beside_usual_ones(tmp_path: Path) -> None:
    for folder, names in {
        "tif": ["1.tif", "2.tif"],
        "both": ["img_1.jpg", "img_2.jpg", "img_1.tif", "d_1.tif"],
    }.items():
        (tmp_path / folder).mkdir()
        for name in names:
            Image.new("RGB", (16, 16)).save(tmp_path / folder / name)
        clip, store = Clip("k", folder), StoreOptions(frames=9)
        outcome = make_sample(clip, root=tmp_path, media="video", store=store)
        assert isinstance(outcome, Sample)
        assert list(outcome.members) == ["json", "000.jpg", "001.jpg"]


def test_a_file_of_a_rarer_suffix_beside_one_of_its_name_is_ignored_and_counted(tmp_path: Path) -> None:
    """Both would have one key, and the listing would be refused."""
    touch(tmp_path, "a.jpg", "a.tif", "b.TIF", "c/a.avif", "a.b.tif")
    found = scan(tmp_path, "image")
    assert found.images == ("a.b.tif", "a.jpg", "b.TIF", "c/a.avif")
    assert found.notes == ("ignored 1 files that are not images (.tif beside a usual one 1)",)


def test_a_pipe_among_frames_or_given_as_a_video_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    os.mkfifo(tmp_path / "frames/img_00001.png")
    os.mkfifo(tmp_path / "v.mp4")
    assert refused(tmp_path, "frames") == "img_00001.png is no file"
    with pytest.raises(DecodeError, match="pipe or device and no file"):
        decode(tmp_path / "v.mp4", lambda count: range(count))


def test_a_reason_is_one_line_without_an_address_in_memory() -> None:
    refusal = Refusal("a.jpg", "cannot identify image file <_io.BytesIO object at 0x7f9713e8a210>\n  in the\r\nend")
    assert refusal.reason == "cannot identify image file the file in the end"
