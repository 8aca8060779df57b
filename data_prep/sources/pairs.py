"""Pairs of images (or videos) and captions: CC3M, CC12M, SBU, Visual Genome, COCO, files of UMT and VindLU.

What the forms of annotation files are is in `pair_files.py`.
"""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Literal

from data_prep.clip import Clip, Extra, Listing, Refusal
from data_prep.sources.names import FileFinder, Missing
from data_prep.sources.pair_files import read_pairs
from data_prep.sources.scan import Keys, about_keys, no_file_of, scan
from data_prep.tables.table import clean
from umt_ds.data.shards.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from umt_ds.errors import DataError

_COCO_FILE = re.compile(r"\d{12}\.jpg")
# SBU has addresses. Whoever downloads them calls a file by the last part; the publisher's script by all behind ".co".
_FLICKR = re.compile(r"https?://[\w.]+\.flickr\.com/(?P<server>\w+)/(?P<file>\w+\.jpg)")
_NO_EXTRA: Extra = {}  # one for ten million clips


def list_pairs(
    folder: Path,
    *,
    annotations: Path,
    media: Literal["image", "video"] | None = None,
    split: str | None = None,
    keys: Keys = "stem",
    min_area: int = 0,
) -> Listing:
    """The images (or videos) that an annotation file names, and their captions: all rows of a file are one sample.

    Whether it is images or videos the first name tells; one without suffix is an image unless `media` says so.
    `split` chooses one of a file that has several. min_area: pixels that the region of a phrase has at least, in Visual
    Genome's file. Rows without a file are left out and reported.
    Raises DataError where the annotations cannot be read or not one row has a file.
    """
    rows, said = read_pairs(annotations, split=split, min_area=min_area)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{annotations} has no rows")
    media = media or _media_of(str(first.name))
    found = scan(folder, media, keys=keys)
    names = FileFinder(found, folder, what="file")
    captions: dict[str, tuple[str, ...]] = {}
    left_out: list[Refusal] = []
    num_same = 0
    for name, texts, number in chain([first], rows):
        path = names.file_of(*_spellings(name))
        if isinstance(path, Missing):
            reason = f"is no {media} by its name" if _is_other(name, media) else path.reason
            left_out.append(Refusal(clean(str(name)) or f"{annotations.name} row {number}", reason))
        elif not texts:
            left_out.append(Refusal(clean(str(name)), "no caption"))
        else:
            known = captions.get(path, ())
            captions[path] = tuple(dict.fromkeys((*known, *texts)))
            num_same += len(known) + len(texts) - len(captions[path])
    if not captions:
        looked_for, why = clean(" or ".join(_spellings(first.name))), left_out[0].reason
        raise no_file_of(annotations, len(left_out), folder, looked_for=looked_for, why=why)
    same = (f"left out {num_same:,} captions that their {media} has already",) if num_same else ()
    told = f"{len(captions):,} {media}s have {sum(map(len, captions.values())):,} captions"
    return Listing(
        root=folder,
        clips=tuple(Clip(found.key(path), path, texts, extra=_NO_EXTRA) for path, texts in captions.items()),
        media=media,
        left_out=(*found.unusable, *left_out),
        about={"source": "pairs", **about_keys(keys), **({"min_area": min_area} if min_area else {})},
        notes=(*found.notes, *found.unnamed(len(captions)), *said.notes(annotations), *same, told),
    )


def _media_of(name: str) -> Literal["image", "video"]:
    return "video" if name.rpartition(".")[2].lower() in VIDEO_SUFFIXES else "image"


def _is_other(name: str | int, media: Literal["image", "video"]) -> bool:
    """Whether a name is that of a picture where videos are wanted, or of a video where pictures are."""
    suffixes = IMAGE_SUFFIXES if media == "video" else VIDEO_SUFFIXES
    return isinstance(name, str) and name.strip().rpartition(".")[2].lower() in suffixes


def _spellings(name: str | int) -> list[str]:
    """COCO calls image 42 COCO_val2014_000000000042.jpg, and since 2017 000000000042.jpg. SBU names addresses."""
    if isinstance(name, str) and (address := _FLICKR.fullmatch(name)):
        return [address["file"], f"m_{address['server']}_{address['file']}", f"{address['server']}_{address['file']}"]
    file = f"{name:012d}.jpg" if isinstance(name, int) else name
    return [file, f"COCO_val2014_{file}", f"COCO_train2014_{file}"] if _COCO_FILE.fullmatch(file) else [file]
