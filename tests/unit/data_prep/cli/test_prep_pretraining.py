"""The corpora of pretraining, from files as publishers and downloaders give them to a set that `verify` passes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.annotations import CC12M_TSV, SBU_JSON, VG_REGIONS
from tests.support.files import written
from tests.support.parquet import write_parquet
from tests.support.umt_data import Umt
from tests.support.videos import write_video

Command = Callable[[Path], tuple[Path, list[str | Path]]]  # folder of the corpus → where the set is, words


def picture(level: int = 90) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((40, 60, 3), level, np.uint8)).save(file, "JPEG")
    return file.getvalue()


def put(path: Path, content: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture() if content is None else content)
    return path


def visual_genome(folder: Path) -> tuple[Path, list[str | Path]]:
    put(folder / "vg" / "VG_100K" / "1.jpg")
    put(folder / "vg" / "VG_100K_2" / "2407890.jpg")
    regions = written(folder / "region_descriptions.json", VG_REGIONS)
    return folder / "set", ["pairs", folder / "vg", folder / "set", "--annotations", regions]


def vg_of_albef(folder: Path) -> tuple[Path, list[str | Path]]:
    put(folder / "vg" / "image" / "2.jpg")
    put(folder / "vg" / "image2" / "2407890.jpg")
    rows = [
        {"image": "image/2.jpg", "caption": "the road is paved"},
        {"image": "image/2.jpg", "caption": "a parked white van"},
        {"image": "image2/2407890.jpg", "caption": "a cat sitting on a table."},
    ]
    pairs = written(folder / "vg.json", json.dumps(rows))
    return folder / "set", ["pairs", folder / "vg", folder / "set", "--annotations", pairs]


def sbu(folder: Path) -> tuple[Path, list[str | Path]]:
    put(folder / "sbu" / "4385058960_b0f291553e.jpg")
    put(folder / "sbu" / "3596303505_3ce4c20529.jpg")
    rows = written(folder / "sbu-captions-all.json", SBU_JSON)
    return folder / "set", ["pairs", folder / "sbu", folder / "set", "--annotations", rows]


def cc12m_tars(folder: Path) -> tuple[Path, list[str | Path]]:
    """As `img2dataset --output_format webdataset` writes them."""
    tar = folder / "cc12m" / "00000.tar"
    tar.parent.mkdir(parents=True)
    with tarfile.open(tar, "w") as archive:
        for number, line in enumerate(CC12M_TSV.splitlines()):
            url, caption = line.split("\t")
            told = {"url": url, "caption": caption, "key": f"{number:09d}", "status": "success", "width": 60}
            for suffix, content in (("jpg", picture()), ("txt", caption.encode()), ("json", json.dumps(told).encode())):
                member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    write_parquet(tar.with_suffix(".parquet"), {"url": ["u"], "key": ["000000000"]})
    written(tar.with_name("00000_stats.json"), json.dumps({"count": 3, "successes": 2, "failed_to_download": 1}))
    return tar.parent, ["index", tar.parent]


def moments_2(folder: Path) -> tuple[Path, list[str | Path]]:
    files = ("clapping/yt-a_1.mp4", "adult+female+speaking/getty-b_2.mp4")
    for file in files:
        write_video(folder / "training" / file, frames=6)
    rows = written(folder / "trainingSet.csv", "".join(f"{file},{file.split('/')[0]},3,1\n" for file in files))
    classes = written(folder / "category_momentsv2.txt", "clapping\ndropping\nadult+female+speaking\n")
    return folder / "set", ["moments", folder / "training", folder / "set", "--csv", rows, "--classes", classes]


@pytest.mark.slow
@pytest.mark.parametrize("corpus", [visual_genome, vg_of_albef, sbu, cc12m_tars, moments_2])
def test_a_corpus_becomes_a_set_that_is_whole(corpus: Command, tmp_path: Path, umt: Umt) -> None:
    out, words = corpus(tmp_path)
    said = umt(*words, "--workers", 1)
    assert said.code == 0, said.text
    said = umt("verify", out)
    assert said.code == 0, said.text
