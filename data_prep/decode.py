"""What a worker does with one clip: choose frames, decode, shrink, encode. Same clip, same bytes."""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_prep.clip import Cell, Clip, Outcome, Refusal, Sample, SourceMedia, StoreOptions
from data_prep.engines import take_longer
from data_prep.spool import Members, kept, room_for, source_file, spool_file, whole_file, with_member
from umt_ds.data.order.views import frames_of
from umt_ds.data.pixels.picture import read_image
from umt_ds.data.pixels.video import FramesOfVideo, Pixels, Span, Timeline, encode_by_time, shrink, shrunk, transcode
from umt_ds.data.shards.fetch import local_copy, names_in, read_through, read_whole, reading, why_not
from umt_ds.data.shards.records import Member, ShardIndex, load_index, read_members
from umt_ds.data.shards.storage import is_local
from umt_ds.data.shards.suffixes import IMAGE_SUFFIXES, USUAL_IMAGES
from umt_ds.errors import DataError, DecodeError, some

# One of a folder of frames: img_00001.jpg, 00001.png. The part before the number says what it shows.
NUMBERED_PICTURE = re.compile(rf"([a-z_-]*)\d+\.(?:{'|'.join(IMAGE_SUFFIXES)})", re.IGNORECASE)
# A file may be this much longer than its row says and still be the cut clip (cuts fall on key frames).
CUT_TOLERANCE_S = 2.0
# Training reads an array as a whole.
MOST_FRAMES_OF_AN_ARRAY = 4096
# A clip has --timeout for each so many of its frames: a core decodes 50 to 500 a second.
_FRAMES_IN_TIME = 1000
# Members of other sets that are read in one go.
_COPIED_AT_ONCE = 64


def make_sample(
    clip: Clip, *, root: Path, media: SourceMedia, store: StoreOptions, spool: Path | None = None
) -> Outcome:
    """The sample that `clip` becomes, or why it becomes none. Its members lie in a file of the folder `spool`, where
    there is one; then a frame or two are in memory at a time.

    Raises MachineError where that is the fault of a store, disk or machine and not of the clip
    (`umt_ds.data.shards.fetch`).
    """
    root, place = _place_of(clip, root, spool)
    file = None if spool is None else spool_file(spool, clip.key)
    keep = partial(kept, file=file)
    try:
        match media:
            case "video":
                record, members = _of_video(clip, place, root, store, keep, file)
            case "image":
                record, members = _of_image(place, root, store)
            case "sample":
                return _copied(clip, place, keep)
    except DecodeError as error:
        return _refusal(clip, error.what, file)
    except OSError as error:  # the file's own: what was not became a MachineError where it was read
        return _refusal(clip, why_not(error), file)
    except MemoryError:
        return _refusal(clip, "needs more memory than --memory grants a process", file)
    return Sample(clip.key, with_member(members, "json", _json({**_described(clip), **record})))


def _place_of(clip: Clip, root: Path, spool: Path | None) -> tuple[Path, Path]:
    """Where the bytes of a clip are, and below which folder: those of a cell are in the spool."""
    if spool is not None and Cell.parse(clip.source):
        return spool, source_file(spool, clip.key)
    return root, root / clip.source


def _refusal(clip: Clip, reason: str, file: Path | None) -> Refusal:
    if file is not None:
        file.unlink(missing_ok=True)  # what came before the fault was found
    return Refusal(clip.source, reason)


def check_readable(place: Path, *, root: Path) -> None:
    """Read a local file, or the files of a folder, to the end: decoders call a disk that fails a damaged file.

    From a store, files were fetched whole. Raises OSError where the file is at fault, else MachineError.
    """
    if not is_local(place):
        return
    files = [place / name for name in names_in(place)] if place.is_dir() else [place]
    for file in files if len(files) == 1 else filter(Path.is_file, files):
        reading(file, partial(read_through, file), root=root)


Made = tuple[dict[str, Any], Members]  # fields of the json, members by suffix
Keep = Callable[[Iterable[tuple[str, Iterable[bytes]]]], Members]  # `kept`, which knows where


def _of_video(clip: Clip, place: Path, root: Path, store: StoreOptions, keep: Keep, file: Path | None) -> Made:
    with local_copy(place, root=root) as path:
        if not is_local(path) or path.is_dir():
            return _of_frames(path, root, store, keep)
        own_root = root if path == place else path.parent
        make = partial(_as_mp4, file=file) if store.store == "mp4" else partial(_as_frames, keep=keep)
        try:
            return reading(path, partial(make, clip, path, store), root=own_root)
        except DecodeError:
            check_readable(path, root=own_root)  # before it is believed
            raise


def _as_mp4(clip: Clip, path: Path, store: StoreOptions, *, file: Path | None) -> Made:
    span_of = partial(_span_to_decode, clip)
    with nullcontext() if file is None else room_for(file):
        whole = transcode(
            path,
            short_side=store.short_side,
            fps=store.fps,
            span_s=span_of,
            each_once=store.views is not None,
            file=file,
        )
    members = {"mp4": whole.data} if file is None else whole_file("mp4", file)
    return _record(whole, clip, store) | {"stored_fps": round(whole.stored_fps, 3)}, members


def _as_frames(clip: Clip, path: Path, store: StoreOptions, *, keep: Keep) -> Made:
    def choose(timeline: Timeline) -> list[int]:
        return _choose(store, timeline, _span_to_decode(clip, timeline))

    def encode(count: int, frames: Iterator[Pixels]) -> Members:
        return keep(_encoded(count, frames, store))

    encoded = encode_by_time(path, choose, encode, short_side=store.short_side)
    return _record(encoded, clip, store), encoded.content


def _of_image(place: Path, root: Path, store: StoreOptions) -> Made:
    """A picture as a viewer shows it, as a clip of one frame."""
    picture = read_image(read_whole(place, root=root))
    height, width = picture.shape[:2]
    small = shrink(picture, store.short_side)
    record = {"width": small.shape[1], "height": small.shape[0], "source_width": width, "source_height": height}
    if store.store == "npy":
        return record, {"npy": b"".join(npy(1, iter([small])))}
    return record, {"jpg": jpeg(small, store.quality)}


def _of_frames(folder: Path, root: Path, store: StoreOptions, keep: Keep) -> Made:
    """A folder of numbered pictures, as the raw frames of Something-Something are given."""
    kinds: dict[str, list[Path]] = defaultdict(list)
    for name in names_in(folder):
        if named := NUMBERED_PICTURE.fullmatch(name):
            kinds[named[1]].append(folder / name)
    kinds = _usual(kinds) or kinds
    pictures = {kind: files for kind, files in kinds.items() if not kind.startswith("flow")}  # optical flow lies beside
    if len(pictures) != 1:
        raise DecodeError(f"a folder with {len(pictures)} kinds of numbered pictures ({some(sorted(pictures))})")
    files = sorted(pictures.popitem()[1], key=lambda file: (len(file.name), file.name))
    if store.store == "mp4" or store.fps:
        raise DecodeError("a folder of frames says no rate: --store mp4 and --fps need one")
    numbers = frames_of(store.views, len(files)) if store.views else evenly_spread(len(files), store.frames)
    _check_count(numbers, store)
    sizes: set[tuple[int, int]] = set()  # width and height of the pictures

    def frames() -> Iterator[Pixels]:
        for number in numbers:
            frame = _read_frame(files[number], root)
            sizes.add((frame.shape[1], frame.shape[0]))
            yield shrink(frame, store.short_side)

    members = keep(_encoded(len(numbers), frames(), store))
    if len(sizes) > 1:
        raise DecodeError(f"its frames have {len(sizes)} different sizes")
    width, height = sizes.pop()
    stored_width, stored_height = shrunk(width, height, store.short_side)
    record = {
        "width": stored_width,
        "height": stored_height,
        "source_width": width,
        "source_height": height,
        "num_frames_total": len(files),
        "source_frames": numbers,
        **_clip_frames(store, range(len(files))),
    }
    return record, members


def _usual(kinds: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    """Without what lies beside pictures of the usual suffixes, as depth_00001.tif beside img_00001.jpg."""
    usual = {kind: [f for f in files if f.suffix[1:].lower() in USUAL_IMAGES] for kind, files in kinds.items()}
    return {kind: files for kind, files in usual.items() if files}


def _read_frame(file: Path, root: Path) -> Pixels:
    """Raises DecodeError that names the file: it is one of many."""
    if is_local(file) and file.exists() and not file.is_file():
        raise DecodeError(f"{file.name} is no file")
    try:
        return read_image(read_whole(file, root=root))
    except DecodeError as error:
        raise DecodeError(f"{file.name}: {error.what}") from error
    except OSError as error:
        raise DecodeError(f"{file.name} {why_not(error)}") from error


def _copied(clip: Clip, tar: Path, keep: Keep) -> Outcome:
    """A finished sample of another set, byte for byte. `clip.extra` holds its row."""
    row = int(clip.extra["row"])
    index = index_of(tar)
    try:
        return Sample(index.key(row), keep(_read_in_parts(tar, index.members(row))))
    except DataError as error:
        raise DecodeError(f"damaged: {error.what}") from error


def _read_in_parts(tar: Path, members: Sequence[Member]) -> Iterator[tuple[str, list[bytes]]]:
    for start in range(0, len(members), _COPIED_AT_ONCE):
        for suffix, content in read_members(tar, members[start : start + _COPIED_AT_ONCE]).items():
            yield suffix, [content]


@lru_cache(maxsize=64)
def index_of(tar: Path) -> ShardIndex:
    """The index of a shard; those of the last 64 are kept."""
    return load_index(tar)


def evenly_spread(count: int, wanted: int) -> list[int]:
    """The middle frames of `wanted` equal parts of a video; every frame once where it has no more than that.

    >>> evenly_spread(300, 4), evenly_spread(3, 4)
    ([37, 112, 187, 262], [0, 1, 2])
    """
    parts = min(count, wanted)
    return [(2 * part + 1) * count // (2 * parts) for part in range(parts)]


def at_rate(count: int, source_fps: float, fps: float) -> list[int]:
    """The frames of a video of `count` that lie at the middles of parts of 1/fps seconds; at most every frame once.

    >>> at_rate(90, 30, 1), at_rate(3, 30, 60)
    ([15, 45, 75], [0, 1, 2])
    """
    return evenly_spread(count, max(1, round(count * fps / source_fps)))


def _span_within(clip: Clip, timeline: Timeline) -> Span | None:
    """The part of the file that is the clip; None for all of it, also where the file is the cut clip already."""
    if clip.first_s is not None:
        return timeline.first(clip.first_s)
    if clip.span_s is None:
        return None
    if clip.is_of_whole:
        return timeline.clipped(clip.span_s)
    if timeline.rate == 0:
        raise DecodeError("says nothing about the times of its frames: the row's seconds cannot be found in it")
    start_s, end_s = clip.span_s
    wanted_s, file_s = end_s - start_s, timeline.end_s
    # a file that is a little too long is the clip, cut on key frames; one that reaches the row's seconds may be both
    if file_s <= wanted_s + CUT_TOLERANCE_S and (file_s < end_s or file_s <= 1.25 * wanted_s):
        return None
    if file_s < end_s - 1:
        raise DecodeError(
            f"lasts {file_s:.1f} s: neither the clip of {wanted_s:g} s "
            f"nor the whole video that has {start_s:g}-{end_s:g} s"
        )
    return timeline.clipped(clip.span_s)


def _span_to_decode(clip: Clip, timeline: Timeline) -> Span | None:
    """The same, when its frames are about to be decoded: a long clip may take longer."""
    span_s = _span_within(clip, timeline)
    take_longer(times=-(-len(timeline.within(span_s)) // _FRAMES_IN_TIME))
    return span_s


def _choose(store: StoreOptions, timeline: Timeline, span_s: Span | None) -> list[int]:
    """Which frames to take of a video, or of a span of it: those of the views, else the middles of equal parts of its
    time."""
    if store.fps and timeline.rate == 0:
        raise DecodeError("does not say its frame rate, which --fps needs")
    here = timeline.within(span_s)
    if store.views:
        numbers = [here.start + number for number in frames_of(store.views, len(here))]
    elif not store.fps and len(here) <= store.frames:
        numbers = list(here)
    elif timeline.rate is None:
        start_s, end_s = span_s or timeline.whole
        parts = max(1, round((end_s - start_s) * store.fps)) if store.fps else store.frames
        numbers = timeline.at_middles(parts, span_s)
    else:  # by number, in whole numbers: the same, without rounding
        count = len(here)
        offsets = at_rate(count, timeline.rate, store.fps) if store.fps else evenly_spread(count, store.frames)
        numbers = [here.start + offset for offset in offsets]
    _check_count(numbers, store)
    return numbers


def _check_count(numbers: Sequence[int], store: StoreOptions) -> None:
    if store.store == "npy" and len(numbers) > MOST_FRAMES_OF_AN_ARRAY:
        raise DecodeError(f"{len(numbers):,} frames in one array, above the limit of {MOST_FRAMES_OF_AN_ARRAY:,}")


def _clip_frames(store: StoreOptions, here: range) -> dict[str, Any]:
    """With --views: which frames of the file the clip is, as [first, how many]. A rule counts them from the first."""
    return {"clip_frames": [here.start, len(here)]} if store.views else {}


def _described(clip: Clip) -> dict[str, Any]:
    """What the listing knows. No absolute path and no date: the same clip gives the same bytes anywhere."""
    record: dict[str, Any] = {"key": clip.key, "source": clip.source}
    if clip.captions:
        record["caption"] = clip.captions[0] if len(clip.captions) == 1 else list(clip.captions)
    if clip.label is not None:
        record |= {"label": clip.label, "label_name": clip.label_name}
    return {**record, **clip.extra}


def _record(stored: FramesOfVideo, clip: Clip, store: StoreOptions) -> dict[str, Any]:
    """What is said of the stored frames, and of the file that they are from (fps, num_frames_total)."""
    span_s = _span_within(clip, stored.timeline)
    return {
        "width": stored.stored_width,
        "height": stored.stored_height,
        "source_width": stored.width,
        "source_height": stored.height,
        "duration_s": round(float(span_s[1] - span_s[0] if span_s else stored.duration_s), 3),
        "fps": round(stored.fps, 3),
        "num_frames_total": stored.num_frames,
        "source_frames": list(stored.numbers),
        "times_s": [round(time, 3) for time in stored.times_s],
        "codec": stored.codec,
        "decoder": stored.decoder,
        **({"interlaced": True} if stored.interlaced else {}),
        **({"transfer": stored.transfer} if stored.transfer else {}),
        **_clip_frames(store, stored.timeline.within(span_s)),
    }


def _encoded(count: int, frames: Iterator[Pixels], store: StoreOptions) -> Iterator[tuple[str, Iterable[bytes]]]:
    """The members of a sample of `count` frames u8 [H,W,3], as they come."""
    if store.store == "npy":
        yield "npy", npy(count, frames)
        return
    for number, frame in enumerate(frames):
        yield f"{number:03d}.jpg", [jpeg(frame, store.quality)]


def npy(count: int, frames: Iterator[Pixels]) -> Iterator[bytes]:
    """`count` frames u8 [H,W,3] as the file, in pieces, that NumPy writes of them as one array."""
    first = next(frames)
    header = io.BytesIO()
    described = {"descr": first.dtype.str, "fortran_order": False, "shape": (count, *first.shape)}
    np.lib.format.write_array_header_1_0(header, described)
    yield header.getvalue()
    for frame in chain([first], frames):
        yield frame.tobytes()


def jpeg(frame: Pixels, quality: int) -> bytes:
    """4:2:0, as in the videos themselves, and Pillow's exact DCT: the fast one is off by up to 89 levels, and
    simplejpeg 1.9 encodes with it below quality 96 even where told not to."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
