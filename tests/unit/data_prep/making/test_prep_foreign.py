"""Tars of img2dataset and video2dataset are adopted as they are, and what they lack is said."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_prep.checking.samples import samples_of
from data_prep.checking.verify import verify
from data_prep.making.foreign import Adopted, adopt
from tests.support.videos import write_video
from umt_ds.data.shards.records import load_index, load_manifest
from umt_ds.data.shards.sample_record import captions_of
from umt_ds.errors import DataError

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


@pytest.mark.parametrize("name", ["../../etc/000000000.jpg", "/000000000.jpg", "a/../000000000.jpg"])
def test_a_tar_whose_members_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    tar = write_shard(tmp_path / "x", 0, [(jpeg(), "a", {})])
    with tarfile.open(tar, "a") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(DataError, match="points outside its folder"):
        adopt(tmp_path / "x")
