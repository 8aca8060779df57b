"""What lies below a folder: what to do where nothing is read there, and keys that keep files apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.sources.folder import list_folder
from data_prep.sources.pairs import list_pairs
from data_prep.sources.scan import Kind, scan
from tests.support.files import touch, written
from umt_ds.errors import DataError


@pytest.mark.parametrize(
    ("files", "kind", "seen", "advice"),
    [
        (("a.jpg", "b/c.JPG", "d.png"), "video", "only .jpg 2, .png 1", "`umt-data folder --kind image`"),
        (("a.mp4",), "image", "only .mp4 1", "`umt-data folder` takes them without --kind"),
        (("00000.tar", "b.zip"), "video", "only .tar 1, .zip 1", "unpack them, or give tars that hold samples"),
        (("a.mp4.part",), "video", "only .part 1", "downloads that are not whole"),
        (("clip1", "clip2", "x.vid"), "video", "only no suffix 2, .vid 1", "files with no suffix, .vid: if they are"),
        ((), "video", "it is empty", "videos are files that end in mp4, webm"),
    ],
)
def test_a_folder_without_one_says_which_suffixes_are_there_and_what_to_do(
    files: tuple[str, ...], kind: Kind, seen: str, advice: str, tmp_path: Path
) -> None:
    touch(tmp_path, *files)
    with pytest.raises(DataError) as refused:
        scan(tmp_path, kind)
    assert f"no {kind} below {tmp_path} ({seen})" in refused.value.what
    assert advice in str(refused.value.hint)


def test_two_files_of_one_key_are_both_named_and_kept_apart_by_their_paths(tmp_path: Path) -> None:
    touch(tmp_path, "a/b.mp4", "a/b.webm", "c.mp4")
    with pytest.raises(DataError, match=r"'a/b' to a/b\.mp4 and a/b\.webm") as refused:
        list_folder(tmp_path).first_in_order()
    assert "--keys path" in str(refused.value.hint)
    apart = list_folder(tmp_path, keys="path").first_in_order()
    assert sorted(clip.key for clip in apart.clips) == ["a/b%2Emp4", "a/b%2Ewebm", "c%2Emp4"]
    assert apart.about == {"source": "folder", "keys": "path"}
    assert list_folder(touch(tmp_path / "other", "c.mp4")).about == {"source": "folder"}


def test_keys_of_paths_also_keep_the_unusual_picture_beside_the_usual_one(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a.tif")
    annotations = written(
        tmp_path / "p.json", '[{"image": "a.jpg", "caption": "x"}, {"image": "a.tif", "caption": "y"}]'
    )
    apart = list_pairs(tmp_path, annotations=annotations, keys="path")
    assert [(clip.source, clip.key, clip.captions) for clip in apart.clips] == [
        ("a.jpg", "a%2Ejpg", ("x",)),
        ("a.tif", "a%2Etif", ("y",)),
    ]
    assert scan(tmp_path, "image").images == ("a.jpg",)
