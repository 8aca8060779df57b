"""Tiny shard sets for tests, written without webdataset: what a folder of `umt-data` looks like.

Sample n has the key clip-000n, the label n, the caption "clip n", and frames of one colour:
red n, green the frame number, blue 200. So a pixel tells which clip and frame it came from.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from umt_ds.data.shards.manifest import Manifest, shard_entries
from umt_ds.data.shards.records import index_path, load_index
from umt_ds.data.shards.tars import index_tar

Members = Mapping[str, bytes]  # suffix → bytes


def write_shards(
    folder: Path,
    counts: Sequence[int] = (5, 4, 6),
    *,
    members: Callable[[int], Members] | None = None,
    first: int = 0,
    key: Callable[[int], str] | None = None,
) -> Path:
    """Shards with `counts` samples each, numbered from `first`; `members(n)` are the files of sample n
    (default: six PNG frames)."""
    folder.mkdir(parents=True, exist_ok=True)
    members, key = members or png_frames, key or key_of_sample
    tars, number = [], first
    for shard, count in enumerate(counts):
        tar = folder / f"tiny-{shard:06d}.tar"
        with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as archive:
            for _ in range(count):
                for suffix, data in members(number).items():
                    info = tarfile.TarInfo(f"{key(number)}.{suffix}")
                    info.size, info.mtime = len(data), 0
                    archive.addfile(info, io.BytesIO(data))
                number += 1
        index_tar(tar).save(index_path(tar))
        tars.append(tar)
    Manifest(name="tiny", media="frames", shards=shard_entries(tars)).save(folder)
    return folder


def key_of_sample(number: int) -> str:
    return f"clip-{number:04d}"


def frame(number: int, index: int, *, size: tuple[int, int] = (20, 28)) -> NDArray[np.uint8]:
    """Frame `index` of sample `number`, u8 [H,W,3]."""
    return np.full((*size, 3), (number, index, 200), np.uint8)


def picture(pixels: NDArray[np.uint8], *, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def record(number: int) -> dict[str, bytes]:
    """The json member of sample `number`."""
    content: dict[str, Any] = {"label": number, "caption": f"clip {number}"}
    return {"json": json.dumps(content).encode()}


def png_frames(number: int, *, num_frames: int = 6) -> dict[str, bytes]:
    frames = {f"{i:03d}.png": picture(frame(number, i)) for i in range(num_frames)}
    return {**record(number), **frames}


def noisy_frames(number: int, *, num_frames: int = 7) -> dict[str, bytes]:
    """As png_frames, but each pixel differs, so that crops and flips show."""
    rng = np.random.default_rng(number)
    noise = rng.integers(0, 256, (num_frames, 20, 28, 3), dtype=np.uint8)
    return {**record(number), **{f"{i:03d}.png": picture(noise[i]) for i in range(num_frames)}}


def undecodable(*numbers: int) -> Callable[[int], Members]:
    """png_frames, where the samples `numbers` hold junk in place of pictures."""

    def members(number: int) -> Members:
        good = png_frames(number)
        if number not in numbers:
            return good
        return {suffix: data if suffix == "json" else b"junk" for suffix, data in good.items()}

    return members


def flip_byte(folder: Path, *, shard: int, row: int, suffix: str) -> None:
    """Damage one member on disk without changing any size: its CRC no longer fits."""
    tar = folder / f"tiny-{shard:06d}.tar"
    member = next(m for m in load_index(tar).members(row) if m.suffix == suffix)
    with tar.open("r+b") as file:
        file.seek(member.offset + member.size // 2)
        byte = file.read(1)
        file.seek(-1, io.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))


def shift_index(folder: Path, *, shard: int) -> None:
    """Give one shard an index whose offsets point one block too far, sizes and counts unchanged."""
    tar = folder / f"tiny-{shard:06d}.tar"
    index = load_index(tar)
    replace(index, offsets=index.offsets + 512).save(index_path(tar))
