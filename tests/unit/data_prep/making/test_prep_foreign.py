"""Tars of img2dataset and video2dataset are adopted as they are, and what they lack is said."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_prep.checking.samples import samples_of
from data_prep.checking.verify import verify
from data_prep.making.foreign import Adopted, adopt, adopt_below
from data_prep.making.foreign_tar import suffixes_meant
from tests.support.videos import write_video
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.records import load_index
from umt_ds.data.shards.sample_record import captions_of
from umt_ds.errors import ConfigError, DataError

Row = tuple[bytes | None, str | None, Mapping[str, Any]]  # media (None: failed), caption, more columns


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), (90, 90, 90)).save(file, "JPEG")
    return file.getvalue()


def write_shard(folder: Path, number: int, rows: Sequence[Row], *, suffix: str = "jpg", tool: str = "img") -> Path:
    """A shard as WebDatasetSampleWriter writes it: img2dataset/writer.py and video2dataset/data_writer.py, with
    write_stats of their logger.py. They differ in what a failed download leaves: nothing, or its json and txt."""
    import webdataset

    folder.mkdir(exist_ok=True)
    tar = folder / f"{number:05d}.tar"
    failed = {} if tool == "img" else {"failed_to_subsample": 0}
    reasons: dict[str, int] = {}
    with webdataset.TarWriter(str(tar)) as writer:
        for place, (media, caption, columns) in enumerate(rows):
            reason = "success" if media else "HTTP Error 404: Not Found\x1b[2J"
            reasons[reason] = reasons.get(reason, 0) + 1
            key = f"{number * 10_000 + place:09d}"
            status = {"status": "success" if media else "failed_to_download", "error_message": None, "key": key}
            sample = {"__key__": key, "txt": caption or "", "json": json.dumps({**columns, **status}, indent=4)}
            if media or tool == "video":
                writer.write(sample | ({suffix: media} if media else {}))
    successes = reasons.get("success", 0)
    stats = {"count": len(rows), "successes": successes, "failed_to_download": len(rows) - successes} | failed
    stats |= {"failed_to_resize": 0, "duration": 1.5, "start_time": 1.0, "end_time": 2.5, "status_dict": reasons}
    tar.with_name(f"{number:05d}_stats.json").write_text(json.dumps(stats, indent=4))
    tar.with_name(f"{number:05d}.parquet").write_bytes(b"PAR1")
    return tar


def told(adopted: Adopted) -> str:
    return "\n".join(adopted.notes)


def test_images_of_img2dataset_are_adopted_untouched_and_their_failures_counted(tmp_path: Path) -> None:
    folder = tmp_path / "cc3m"
    rows: list[Row] = [(jpeg(), "a bus", {"caption": "a bus"}), (None, "gone", {"caption": "gone"}), (jpeg(), None, {})]
    tars = [write_shard(folder, n, rows) for n in range(2)]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    adopted = adopt(folder)
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert (adopted.manifest.media, adopted.manifest.num_samples, adopted.manifest.name) == ("image", 4, "cc3m")
    assert "2 of 4 samples have a caption, 0 a label" in told(adopted)
    assert "4 of 6 downloads succeeded; 2 failed_to_download\n       2  HTTP Error 404: Not Found\\x1b[2J" in told(
        adopted
    )
    counted = {"count": 6, "successes": 4, "failed_to_download": 2, "failed_to_resize": 0}
    assert load_manifest(folder).options == {"source": "foreign", **counted}
    assert verify(folder, every=1).decoded == 4
    assert [sample.key for sample in samples_of(tars[1])] == ["000010000", "000010002"]


def test_the_caption_is_the_txt_where_json_has_none_or_null(tmp_path: Path) -> None:
    columns: list[Mapping[str, Any]] = [{}, {"caption": None}, {"caption": ""}, {"caption": "of the json"}]
    tar = write_shard(tmp_path / "x", 0, [(jpeg(), "of the txt", column) for column in columns])
    assert "4 of 4 samples have a caption" in told(adopt(tmp_path / "x"))
    captions = [captions_of(sample.record()) for sample in samples_of(tar)]
    assert captions == [["of the txt"], ["of the txt"], ["of the txt"], ["of the json"]]


def test_a_label_counts_also_beside_a_caption_that_is_none(tmp_path: Path) -> None:
    write_shard(tmp_path / "x", 0, [(jpeg(), None, {"caption": 5, "label": 1}), (jpeg(), "a", {"label": -1})])
    assert "1 of 2 samples have a caption, 1 a label" in told(adopt(tmp_path / "x"))


def test_failed_downloads_that_video2dataset_leaves_in_the_tar_are_not_indexed(tmp_path: Path) -> None:
    mp4 = write_video(tmp_path / "v.mp4").read_bytes()
    rows: list[Row] = [(None, "gone", {}), (mp4, "here", {"label": 3}), (None, "gone too", {}), (mp4, "there", {})]
    tar = write_shard(tmp_path / "x", 0, rows, suffix="mp4", tool="video")
    adopted = adopt(tmp_path / "x")
    assert [sample.key for sample in samples_of(tar)] == ["000000001", "000000003"]
    assert [sorted(m.suffix for m in load_index(tar).members(row)) for row in (0, 1)] == [["json", "mp4", "txt"]] * 2
    assert (adopted.manifest.media, adopted.manifest.num_samples) == ("video", 2)
    assert "2 samples without media are not indexed" in told(adopted)
    assert "2 of 2 samples have a caption, 1 a label" in told(adopted)
    assert verify(tmp_path / "x", every=1).decoded == 2


def test_a_tar_without_any_success_does_no_harm(tmp_path: Path) -> None:
    mp4 = write_video(tmp_path / "v.mp4").read_bytes()
    write_shard(tmp_path / "x", 0, [(None, "gone", {})], suffix="mp4", tool="video")
    write_shard(tmp_path / "x", 1, [(mp4, "here", {})], suffix="mp4", tool="video")
    assert [shard.samples for shard in adopt(tmp_path / "x").manifest.shards] == [0, 1]
    assert verify(tmp_path / "x", every=1).decoded == 1


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    whole = [write_shard(folder, n, [(jpeg(), "a", {"label": "abseiling"})] * 2) for n in range(4)]
    (folder / "00001_stats.json").unlink()
    whole[2].unlink()
    write_shard(tmp_path / "y", 3, [(jpeg(), "a", {})]).replace(whole[3])  # half of it, under the same name
    (folder / "00000_stats.json").write_text(json.dumps({"count": 2, "successes": "2", "status_dict": [1]}))
    text = told(adopt(folder))
    assert "1 tars have no _stats.json (00001.tar): their download may have been cut off" in text
    assert "1 shards have a _stats.json and no tar (00002_stats.json)" in text
    assert "00003.tar holds 1 samples of 2 that were downloaded" in text
    assert "labels are text, such as 'abseiling': training needs their numbers" in text


def test_indexing_again_counts_the_downloads_again_and_keeps_the_samples(tmp_path: Path) -> None:
    write_shard(tmp_path / "x", 0, [(None, "gone", {}), (jpeg(), "a", {})], tool="video")
    first, again = adopt(tmp_path / "x"), adopt(tmp_path / "x", force=True)
    assert again == first


def test_tars_that_arrive_later_stand_behind_the_others_and_only_they_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    for number in (1, 3):
        write_shard(folder, number, [(jpeg(), "a", {}), (None, "gone", {})])
    before = adopt(folder).manifest
    true = (folder / "00001.tar").read_bytes()
    (folder / "00001.tar").write_bytes(bytes(len(true)))  # whoever reads it now fails
    write_shard(folder, 2, [(jpeg(), "b", {})])
    adopted = adopt(folder)
    (folder / "00001.tar").write_bytes(true)
    assert "1 tar is new, 2 are there; of the new:\n1 of 1 samples have a caption" in told(adopted)
    assert adopted.manifest.shards[:2] == before.shards
    assert [shard.file for shard in adopted.manifest.shards] == ["00001.tar", "00003.tar", "00002.tar"]
    assert adopted.manifest.earlier == (2,)
    assert getattr(load_manifest(folder).version(before.fingerprint), "shards", None) == before.shards
    assert adopted.manifest.options == {
        "source": "foreign",
        "count": 5,
        "successes": 3,
        "failed_to_download": 2,
        "failed_to_resize": 0,
    }
    with pytest.raises(DataError, match="is indexed already"):
        adopt(folder)
    assert adopt(folder, force=True).manifest.fingerprint == adopted.manifest.fingerprint
    (folder / "00003.tar").unlink()
    write_shard(folder, 4, [(jpeg(), "b", {})])
    with pytest.raises(DataError, match=r"indexed already, and 1 tar is gone or of another size: 00003\.tar"):
        adopt(folder)


def test_what_suffixes_mean_does_not_change_within_a_set_and_a_tar_without_success_may_be_added(tmp_path: Path) -> None:
    write_shard(tmp_path / "x", 0, [(jpeg(), "a", {})])
    adopt(tmp_path / "x")
    write_shard(tmp_path / "x", 1, [(None, "gone", {})])
    with pytest.raises(DataError, match="was indexed with another --suffix"):
        adopt(tmp_path / "x", suffixes=suffixes_meant(["caption=txt"]))
    assert [shard.samples for shard in adopt(tmp_path / "x").manifest.shards] == [1, 0]


@pytest.mark.parametrize("name", ["../../etc/000000000.jpg", "/000000000.jpg", "a/../000000000.jpg"])
def test_a_tar_whose_members_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    tar = write_shard(tmp_path / "x", 0, [(jpeg(), "a", {})])
    with tarfile.open(tar, "a") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(DataError, match="points outside its folder"):
        adopt(tmp_path / "x")


def write_plain(tar: Path, files: Mapping[str, bytes]) -> Path:
    """A tar of these files, in this order."""
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return tar


def test_several_processes_index_what_one_does(tmp_path: Path) -> None:
    rows: list[Row] = [(jpeg(), "a bus", {"label": 1}), (None, "gone", {})]
    for number in range(3):
        write_shard(tmp_path / "one", number, rows)
    write_plain(tmp_path / "one" / "00003.tar", {"x.heic": b"x", "y.jpg": jpeg(), "._y.jpg": b"z"})
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    alone, together = adopt(tmp_path / "one"), adopt(tmp_path / "two", workers=2)
    assert together.notes == alone.notes
    assert together.manifest.shards == alone.manifest.shards
    assert "ignored 1 files that belong to no sample: hidden files 1 (._y.jpg)" in told(together)


def test_a_sample_that_goes_on_in_the_next_tar_is_seen_between_processes(tmp_path: Path) -> None:
    write_plain(tmp_path / "a.tar", {"x.jpg": jpeg(), "y.jpg": jpeg()})
    write_plain(tmp_path / "b.tar", {"y.txt": b"a bus", "z.jpg": jpeg()})
    assert "1 samples are split over two tars, and each part stands alone: y in a.tar and b.tar" in told(
        adopt(tmp_path, workers=2)
    )


def test_suffixes_of_others_are_read_as_what_they_are_and_stay_so(tmp_path: Path) -> None:
    files = {f"clip.frame_{n}.JPG": jpeg() for n in range(12)}
    tar = write_plain(tmp_path / "a.tar", {**files, "clip.caption": b"a bus", "clip.class": b"3"})
    meant = suffixes_meant(["frame_*.jpg=*.jpg", ".caption=txt", "class=cls"])
    adopted = adopt(tmp_path, suffixes=meant)
    assert (adopted.manifest.media, adopted.manifest.num_samples) == ("frames", 1)
    (sample,) = samples_of(tar)
    assert captions_of(sample.record()) == ["a bus"]
    assert sample.record()["label"] == 3
    assert [member.suffix for member in sample.media_members] == [f"{n}.jpg" for n in range(12)]
    assert not verify(tmp_path, every=1).faults
    assert adopt(tmp_path, force=True).manifest == adopted.manifest, "the manifest remembers what they mean"
    with pytest.raises(DataError, match=r"no frames, array, video or image"):
        adopt(tmp_path, force=True, suffixes={})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["caption"], "does not say what a suffix means"),
        (["frame_*.jpg=jpg"], "does not say what a suffix means"),
        (["caption=heic"], r"\.heic is not read"),
        (["x=txt", "x=cls"], r"two things of \.x: txt and cls"),
    ],
)
def test_a_suffix_that_says_nothing_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        suffixes_meant(given)


def test_two_files_of_a_sample_do_not_become_one(tmp_path: Path) -> None:
    write_plain(tmp_path / "a.tar", {"x.jpg": jpeg(), "y.jpg": jpeg(), "y.caption": b"a", "y.txt": b"b"})
    with pytest.raises(DataError, match=r"by --suffix, sample 'y' has two files \.txt"):
        adopt(tmp_path, suffixes=suffixes_meant(["caption=txt"]))


def test_each_folder_below_becomes_a_set_of_its_own_and_is_left_alone_when_it_is_one(tmp_path: Path) -> None:
    for folder in ("a", "b/c", ".hidden"):
        write_plain(tmp_path / folder / "0.tar", {"x.jpg": jpeg()})
    adopt(tmp_path / "b" / "c")
    made = list(adopt_below(tmp_path, force=False, suffixes=None, workers=1))
    assert [one.folder for one in made] == [tmp_path / "a"]
    assert load_manifest(tmp_path / "a").num_samples == load_manifest(tmp_path / "b" / "c").num_samples == 1
    again = adopt_below(tmp_path, force=True, suffixes=None, workers=1)
    assert [one.folder for one in again] == [tmp_path / "a", tmp_path / "b" / "c"]
