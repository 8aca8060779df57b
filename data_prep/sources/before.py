"""What is left out of a listing before anything is decoded: by the words and the language of its captions, and by what
the headers of its files say. The door to py3langid.

A clip keeps those of its captions that are fit, and is left out where none is. What is asked about and not known
is left out, too, with that reason. A file whose header cannot be read stays: decoding says what is wrong with it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data_prep.clip import Cell, Clip, Listing, Refusal, SourceMedia
from data_prep.decode import NUMBERED_PICTURE
from data_prep.engines import WorkerFailure, map_ordered
from umt_ds.data.pixels.picture import image_size
from umt_ds.data.pixels.video_scan import read_header
from umt_ds.data.shards.fetch import names_in, read_whole
from umt_ds.data.shards.storage import is_local
from umt_ds.errors import ConfigError, DataError, DecodeError, MachineError, some
from umt_ds.terminal import progress

_TIMES_LIKELIER = 100  # that a caption is in another language: short ones leave much open
_HEADERS_AT_ONCE = 64  # of a process: one takes a millisecond, and to ask for it as long
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Before:
    """What a clip must be to be decoded."""

    min_words: int = 0  # of a caption, as blanks part them
    max_words: int | None = None
    language: str | None = None  # of a caption, as ISO 639 calls it: en
    min_seconds: float = 0.0
    max_seconds: float = math.inf
    min_side: int = 0  # pixels of the short side

    def __post_init__(self) -> None:
        """Raises ConfigError for limits between which nothing lies."""
        if self.max_words is not None and self.max_words < self.min_words:
            what = f"--min-words {self.min_words} is above --max-words {self.max_words}"
            raise ConfigError(what, hint="nothing lies between")
        if self.max_seconds < self.min_seconds:
            what = f"--min-seconds {self.min_seconds:g} is above --max-seconds {self.max_seconds:g}"
            raise ConfigError(what, hint="nothing lies between")

    @property
    def reads_captions(self) -> bool:
        return bool(self.min_words or self.max_words is not None or self.language)

    @property
    def reads_headers(self) -> bool:
        return bool(self.reads_seconds or self.min_side)

    @property
    def reads_seconds(self) -> bool:
        return bool(self.min_seconds or not math.isinf(self.max_seconds))

    def asked(self) -> dict[str, object]:
        """The limits that were given, as a manifest states them."""
        return {name: value for name, value in vars(self).items() if value != getattr(Before(), name)}


def leave_out(listing: Listing, keep: Before, *, workers: int) -> Listing:
    """`listing` without the clips that `keep` does not let through; they are in its `left_out`, each with its reason.

    Raises ConfigError for what cannot be asked of these files, DataError where no clip is left, MachineError without
    py3langid.
    """
    if keep == Before():
        return listing
    if keep.reads_captions:
        listing = _by_captions(listing, keep)
    if keep.reads_headers:
        listing = _by_headers(listing, keep, workers=workers)
    return replace(listing, about={**listing.about, "kept_before": keep.asked()})


# --- captions


def _by_captions(listing: Listing, keep: Before) -> Listing:
    is_other = _other_language(keep.language) if keep.language else None
    clips: list[Clip] = []
    left_out: list[Refusal] = []
    dropped = Counter[str]()
    for clip in progress(listing.clips, unit="clip", desc="captions"):
        reasons = [_why_not(text, keep, is_other) for text in clip.captions]
        fit = tuple(text for text, reason in zip(clip.captions, reasons, strict=True) if reason is None)
        if fit:
            dropped.update(reason for reason in reasons if reason)
            clips.append(clip if len(fit) == len(clip.captions) else replace(clip, captions=fit))
        else:
            left_out.append(Refusal(clip.source, next(iter(reasons), None) or "no caption", clip.key))
    told = some(f"{count:,} {reason}" for reason, count in dropped.most_common())
    notes = (f"left out {dropped.total():,} captions of clips that keep another: {told}",) if dropped else ()
    return _without(listing, clips, left_out, notes)


def _why_not(text: str, keep: Before, is_other: Callable[[str], bool] | None) -> str | None:
    words = len(text.split())
    if words < keep.min_words:
        return f"caption of fewer than {keep.min_words} words"
    if keep.max_words is not None and words > keep.max_words:
        return f"caption of more than {keep.max_words} words"
    return f"caption in another language than {keep.language}" if is_other and is_other(text) else None


def _other_language(language: str) -> Callable[[str], bool]:
    """Whether a text is surely in another language: `a dog runs over grass` is as likely Danish as English."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise MachineError(
            f"--language needs py3langid, which cannot be loaded: {error}", hint="pip install 'umt_ds[language]'"
        ) from error
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    if language not in identifier.labels:
        raise ConfigError(
            f"--language {language!r} is none of the {len(identifier.labels)} languages that py3langid knows",
            hint=f"ISO 639 codes: {', '.join(sorted(identifier.labels))}",
        )

    def is_other(text: str) -> bool:
        ranked = identifier.rank(text)
        return bool(ranked[0][1] > _TIMES_LIKELIER * dict(ranked)[language])

    return is_other


# --- headers


class _Header(NamedTuple):
    """None where the file does not say. `is_read`: else decoding will say what is wrong with it."""

    seconds: float | None = None
    side: int | None = None
    is_read: bool = True


def _by_headers(listing: Listing, keep: Before, *, workers: int) -> Listing:
    if not is_local(listing.root):
        raise ConfigError(
            f"--min-seconds, --max-seconds and --min-side read the header of each file, and {listing.root} is a store",
            hint="make the set, then leave them out by `umt-data filter`",
        )
    if any(Cell.parse(clip.source) for clip in listing.clips):
        raise ConfigError(
            "--min-seconds, --max-seconds and --min-side read the header of each file, and these clips are no files of "
            "their own",
            hint="make the set, then leave them out by `umt-data filter`",
        )
    if listing.media != "video" and keep.reads_seconds:
        raise ConfigError("--min-seconds and --max-seconds are for videos", hint="pictures have no seconds")
    clips: list[Clip] = []
    left_out: list[Refusal] = []
    for clip, header in _headers(listing, workers=workers):
        reason = _why_not_by_header(clip, header, keep)
        if reason is None:
            clips.append(clip)
        else:
            left_out.append(Refusal(clip.source, reason, clip.key))
    return _without(listing, clips, left_out)


def _headers(listing: Listing, *, workers: int) -> Iterator[tuple[Clip, _Header]]:
    """Of a file that kills or holds up its process, and of those that were read with it, nothing is known."""
    firsts = range(0, len(listing.clips), _HEADERS_AT_ONCE)
    groups = [listing.clips[first : first + _HEADERS_AT_ONCE] for first in firsts]
    work = partial(_read_headers, root=listing.root, media=listing.media)
    sources = [[clip.source for clip in group] for group in groups]
    results = map_ordered(work, sources, workers=workers, timeout_s=_TIMEOUT_S)
    with closing(results), progress(total=len(listing.clips), unit="clip", desc="headers") as bar:
        for group, result in zip(groups, results, strict=True):
            unread = [_Header(is_read=False)] * len(group)
            yield from zip(group, unread if isinstance(result, WorkerFailure) else result, strict=True)
            bar.update(len(group))


def _read_headers(sources: Sequence[str], *, root: Path, media: SourceMedia) -> list[_Header]:
    return [_read(root / source, media) for source in sources]


def _read(path: Path, media: SourceMedia) -> _Header:
    try:
        if media == "image":
            return _Header(side=min(image_size(read_whole(path))))
        if path.is_dir():
            frames = sorted(name for name in names_in(path) if NUMBERED_PICTURE.fullmatch(name))
            return _Header(side=min(image_size(read_whole(path / frames[0])))) if frames else _Header(is_read=False)
        header = read_header(path)
    except (OSError, DecodeError):
        return _Header(is_read=False)
    return _Header(header.duration_s or None, header.short_side)


def _why_not_by_header(clip: Clip, header: _Header, keep: Before) -> str | None:
    if not header.is_read:
        return None
    if keep.min_side and header.side is not None and header.side < keep.min_side:
        return f"short side below {keep.min_side} pixels"
    if not keep.reads_seconds:
        return None
    known = [min(header.seconds, clip.first_s or math.inf)] if header.seconds else []
    known += [clip.span_s[1] - clip.span_s[0]] if clip.span_s else []
    if not known:
        return "its header does not say how long it is"
    if min(known) < keep.min_seconds:
        return f"shorter than {keep.min_seconds:g} s"
    return f"longer than {keep.max_seconds:g} s" if min(known) > keep.max_seconds else None


def _without(listing: Listing, clips: list[Clip], left_out: list[Refusal], notes: tuple[str, ...] = ()) -> Listing:
    reasons = Counter(refusal.reason for refusal in left_out).most_common()
    told = some((f"{count:,} {reason}" for reason, count in reasons), each=100)
    if not clips:
        raise DataError(f"not one of the {len(listing.clips):,} clips is left: {told}", hint="ask for less")
    if left_out:
        notes = (*notes, f"left out {len(left_out):,} of {len(listing.clips):,} clips before decoding: {told}")
    return replace(listing, clips=tuple(clips), left_out=(*listing.left_out, *left_out), notes=(*listing.notes, *notes))
