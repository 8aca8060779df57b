"""What files are by their suffixes: pictures, videos, and which of a sample's files are its clip. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

# What was read from the first version on. Where a sample has a clip of these, others beside it (a depth map `.tif`)
# change nothing: a set means what it meant when it was made.
USUAL_IMAGES = ("jpg", "jpeg", "png", "webp", "bmp")
_USUAL_FRAMES = ("jpg", "jpeg", "png", "webp")
USUAL_VIDEOS = (
    *("mp4", "webm", "mkv", "mov", "avi", "m4v", "mpg", "mpeg", "gif", "ts"),
    *("flv", "wmv", "asf", "3gp", "ogv", "m2ts", "mts", "vob"),
)
# As far as Pillow has a reader for them (no heic, no jp2), and photographs or frames are stored so
IMAGE_SUFFIXES = (
    *USUAL_IMAGES,
    *("jpe", "jfif", "tif", "tiff", "avif", "dib", "ppm", "pgm", "pnm", "pbm", "qoi"),
)
# As far as `umt_ds.data.pixels.video_file` opens their containers, and they mostly hold pictures (.ogg is mostly sound)
VIDEO_SUFFIXES = (
    *USUAL_VIDEOS,
    *("qt", "3g2", "3gpp", "mj2", "f4v", "divx", "xvid", "ogm", "rm", "rmvb", "mxf", "nut", "dv", "ivf", "y4m", "apng"),
    *("mpe", "m1v", "m2v", "mpv", "m2p", "vro", "m2t", "tp", "trp", "mk3d"),
    *("h264", "264", "avc", "h265", "265", "hevc", "obu"),
)

_LONG = 1000  # files of a sample

Media = Literal["frames", "npy", "video", "image", "none"]


def _one_of(suffixes: Sequence[str], before: str = "") -> re.Pattern[str]:
    return re.compile(rf"{before}(?:{'|'.join(suffixes)})")


# In the order in which a sample's clip is looked for
_CLIPS: tuple[tuple[Media, re.Pattern[str]], ...] = (
    ("frames", _one_of(_USUAL_FRAMES, r"\d{1,18}\.")),
    ("npy", _one_of(["npy"])),
    ("video", _one_of(USUAL_VIDEOS)),
    ("image", _one_of(USUAL_IMAGES)),
    ("frames", _one_of(IMAGE_SUFFIXES, r"\d{1,18}\.")),
    ("video", _one_of(VIDEO_SUFFIXES)),
    ("image", _one_of(IMAGE_SUFFIXES)),
)


def pixels_of(suffixes: tuple[str, ...]) -> tuple[Media, tuple[int, ...]]:
    """What kind of clip a sample is, and which of its files hold its pixels: frames by their number, else one file.

    `json`, `txt`, `cls` and suffixes that nobody knows are not media.
    """
    return _usual_pixels_of(suffixes) if len(suffixes) < _LONG else _pixels_of(suffixes)


@lru_cache(maxsize=256)  # the samples of a set are alike; but for long videos, of which few would fill the memory
def _usual_pixels_of(suffixes: tuple[str, ...]) -> tuple[Media, tuple[int, ...]]:
    return _pixels_of(suffixes)


def _pixels_of(suffixes: tuple[str, ...]) -> tuple[Media, tuple[int, ...]]:
    lowered = [suffix.lower() for suffix in suffixes]
    for media, pattern in _CLIPS:
        indices = [index for index, suffix in enumerate(lowered) if pattern.fullmatch(suffix)]
        if media == "frames":
            indices.sort(key=lambda index: int(lowered[index].partition(".")[0]))
        if indices:
            return media, tuple(indices if media == "frames" else indices[:1])
    return "none", ()


def media_of(suffixes: Sequence[str]) -> Media:
    """What kind of clip the member suffixes of one sample describe."""
    return pixels_of(tuple(suffixes))[0]
