"""What a worker does with one clip: choose frames, decode, shrink, encode as JPEG. Same clip, same bytes."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from data_prep.clip import Clip, Outcome, Refusal, Sample, StoreOptions
from umt_ds.data.video import Decoded, Pixels, decode, probe
from umt_ds.errors import DecodeError

# A file may be this much longer than its row says and still be the cut clip (cuts fall on key frames).
CUT_TOLERANCE_S = 2.0


def decode_clip(clip: Clip, *, root: Path, store: StoreOptions) -> Outcome:
    """The sample that `clip` becomes, or why it becomes none."""
    path = root / clip.source
    try:
        decoded = decode(path, _frames_of(clip, path, store.frames), short_side=store.short_side)
    except DecodeError as error:
        return Refusal(clip.source, error.what)
    except OSError as error:
        return Refusal(clip.source, f"cannot be read: {error.strerror or error}")
    except MemoryError:
        return Refusal(clip.source, "needs more memory than there is")
    members = {"json": _json(_record(clip, decoded))}
    for number, frame in enumerate(decoded.frames):
        members[f"{number:03d}.jpg"] = jpeg(frame, store.quality)
    return Sample(clip.key, members)


def evenly_spread(count: int, wanted: int) -> list[int]:
    """The middle frames of `wanted` equal parts of a video; every frame once where it has no more than that.

    >>> evenly_spread(300, 4), evenly_spread(3, 4)
    ([37, 112, 187, 262], [0, 1, 2])
    """
    parts = min(count, wanted)
    return [(2 * part + 1) * count // (2 * parts) for part in range(parts)]


def _frames_of(clip: Clip, path: Path, wanted: int) -> Callable[[int], list[int]]:
    """Which frames to take, given their number in the file: of all of them, or of the clip's span."""
    if clip.span_s is None:
        return lambda count: evenly_spread(count, wanted)
    start_s, end_s = clip.span_s
    info = probe(path)
    if info.duration_s <= end_s - start_s + CUT_TOLERANCE_S:
        return lambda count: evenly_spread(count, wanted)  # already cut
    if info.duration_s < end_s - 1 or not info.fps:
        raise DecodeError(
            f"lasts {info.duration_s:.1f} s: neither the clip of {end_s - start_s:g} s "
            f"nor the whole video that has {start_s:g}-{end_s:g} s"
        )

    def within_span(count: int) -> list[int]:
        first = min(math.ceil(start_s * info.fps), count - 1)
        last = min(max(math.ceil(end_s * info.fps), first + 1), count)
        return [first + number for number in evenly_spread(last - first, wanted)]

    return within_span


def _record(clip: Clip, decoded: Decoded) -> dict[str, Any]:
    """The sample's json. No absolute path and no date: the same clip gives the same bytes anywhere."""
    record: dict[str, Any] = {"key": clip.key, "source": clip.source}
    if clip.captions:
        record["caption"] = clip.captions[0] if len(clip.captions) == 1 else list(clip.captions)
    if clip.label is not None:
        record |= {"label": clip.label, "label_name": clip.label_name}
    height, width = decoded.frames.shape[1:3]
    return record | {
        **clip.extra,
        "width": width,
        "height": height,
        "source_width": decoded.width,
        "source_height": decoded.height,
        "duration_s": round(decoded.duration_s, 3),
        "fps": round(decoded.fps, 3),
        "num_frames_total": decoded.num_frames,
        "source_frames": list(decoded.numbers),
        "times_s": [round(time, 3) for time in decoded.times_s],
        "codec": decoded.codec,
        "decoder": decoded.decoder,
    }


def jpeg(frame: Pixels, quality: int) -> bytes:
    """4:2:0, as in the videos themselves, and Pillow's exact DCT: the fast one is off by up to 89 levels, and
    simplejpeg 1.9 encodes with it below quality 96 even where told not to."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
