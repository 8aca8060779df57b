"""Finished sets as a source: filter, split and merge make tables over their items, or copy samples to new shards.

Nothing is decoded. Copies are byte for byte and dealt to shards anew: a merged set is mixed, a filtered one has full
shards.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Literal

from data_prep.checking.samples import records_of, samples_of
from data_prep.clip import Clip, Listing, Refusal
from umt_ds.data.clips import read_record
from umt_ds.data.order.views import as_options, views_of
from umt_ds.data.shards.manifest import Manifest, load_manifest, load_shards
from umt_ds.data.shards.records import SampleRef
from umt_ds.data.shards.sample_record import Record, captions_of, has_label, number_in
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.storage import absolute, common_folder
from umt_ds.errors import ConfigError, DataError, DecodeError, quoted, some
from umt_ds.terminal import progress


@dataclass(frozen=True)
class Filter:
    """What a sample must be to stay. Seconds and pixels are those of the source."""

    min_seconds: float = 0.0
    max_seconds: float = float("inf")
    min_side: int = 0
    captioned: bool = False
    labelled: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for limits that no sample or every sample keeps."""
        limits = {"--min-seconds": self.min_seconds, "--max-seconds": self.max_seconds, "--min-side": self.min_side}
        for option, limit in limits.items():
            if math.isnan(limit) or limit < 0 or (math.isinf(limit) and option != "--max-seconds"):
                raise ConfigError(f"{option} {limit:g} is no limit", hint="a number, 0 or more")
        if self.max_seconds < self.min_seconds or self.max_seconds == 0:
            raise ConfigError(
                f"no clip has at least {self.min_seconds:g} s and at most {self.max_seconds:g} s",
                hint="--min-seconds must not be above --max-seconds",
            )

    @property
    def reads_json(self) -> bool:
        return self != Filter()

    def why_not(self, record: Record) -> str | None:
        """The reason to leave a sample out; None if it stays. What is asked about and unknown is left out, too."""
        reasons = (self._of_seconds(record), self._of_side(record), self._of_caption(record))
        return next(filter(None, reasons), "no label" if self.labelled and not has_label(record) else None)

    def _of_seconds(self, record: Record) -> str | None:
        if not self.min_seconds and math.isinf(self.max_seconds):
            return None
        seconds = number_in(record, "duration_s")
        if seconds is None:
            return "duration unknown"
        if seconds < self.min_seconds:
            return f"shorter than {self.min_seconds:g} s"
        return f"longer than {self.max_seconds:g} s" if seconds > self.max_seconds else None

    def _of_side(self, record: Record) -> str | None:
        if not self.min_side:
            return None
        sides = [number_in(record, f"source_{side}") for side in ("width", "height")]
        known = [side for side in sides if side is not None]
        if len(known) < 2:
            return "size of the source unknown"
        return f"short side below {self.min_side} pixels" if min(known) < self.min_side else None

    def _of_caption(self, record: Record) -> str | None:
        if not self.captioned:
            return None
        try:
            return None if captions_of(record) else "no caption"
        except DecodeError as error:
            return error.what


def list_sets(
    sets: Sequence[Path], *, keep: Filter | None = None, verb: str, to: Literal["tars", "table"] = "tars"
) -> Listing:
    """The samples of finished sets that `keep` lets through, to be copied to `tars`; or the items, for a `table` over
    the sets.

    Raises ConfigError where the sets do not go together: one of them twice, other media, other class lists.
    """
    keep = keep or Filter()
    sets = [absolute(folder) for folder in sets]
    twice = next((folder for number, folder in enumerate(sets) if folder in sets[:number]), None)
    if twice:
        raise ConfigError(f"{twice} is named twice", hint="name each set once")
    manifests = [load_shards(folder) if to == "tars" else load_manifest(folder) for folder in sets]
    first = manifests[0]
    for folder, manifest in zip(sets, manifests, strict=True):
        _check_goes_with(first, manifest, sets[0], folder)
    root = common_folder(sets)
    clips: list[Clip] = []
    left_out: list[Refusal] = []
    found = _samples(sets, manifests, root, with_records=keep.reads_json)
    if to == "table":
        found = _all_items(sets, root, with_records=keep.reads_json)
    for source, row, key, record in found:
        why = f"damaged: {record.what}" if isinstance(record, DecodeError) else keep.why_not(record)
        if why:
            left_out.append(Refusal(source, why, key))
        else:
            clips.append(Clip(key, source, extra={"row": row}))
    if not clips:
        raise _none_left(sets, left_out)
    asked = {name: value for name, value in vars(keep).items() if value != getattr(Filter(), name)}
    return Listing(
        root=root,
        clips=tuple(clips),
        media="sample" if to == "tars" else "item",
        left_out=tuple(left_out),
        labels=first.labels,
        about={
            "source": verb,
            "media": first.media,
            "from": [{"name": manifest.name, "fingerprint": manifest.fingerprint} for manifest in manifests],
            **({"kept": asked} if asked else {}),
            "made_with": first.options,
        },
    )


def split(listing: Listing, *, share: float, seed: int) -> tuple[Listing, Listing]:
    """Two listings without a video in common: about 1 - `share` of the samples, and `share` of them.

    Which side a sample goes to is a hash of its video (the json's youtube_id, else its source file or url) and `seed`,
    so that clips of one video stay together, and a video stays on its side when the set grows. Samples whose record
    cannot be read are left out; the first listing says so, and what was left out before.
    """
    sides: dict[bool, list[Clip]] = {False: [], True: []}
    damaged: list[Refusal] = []
    nameless = 0
    videos: set[str] = set()  # two of them: more need not be remembered
    for clip, record in _with_records(listing):
        if isinstance(record, DecodeError):
            damaged.append(Refusal(clip.source, f"damaged: {record.what}", clip.key))
            continue
        video = next((str(record[field]) for field in _VIDEO if record.get(field)), None)
        nameless += video is None
        if len(videos) < 2:
            videos.add(video or clip.key)
        digest = hashlib.sha256(f"{seed} {video or clip.key}".encode(errors="backslashreplace")).digest()
        sides[int.from_bytes(digest[:8], "big") < share * 2**64].append(clip)
    if not sides[True] or not sides[False]:
        raise _one_sided(share, videos=len(videos), samples=len(listing.clips) - len(damaged), damaged=damaged)
    train = _one_side(listing, sides[False], share=round(1 - share, 6), seed=seed)
    train = replace(train, left_out=(*train.left_out, *damaged), notes=(*train.notes, *_told(nameless)))
    return train, replace(_one_side(listing, sides[True], share=share, seed=seed), left_out=(), notes=())


def _one_sided(share: float, *, videos: int, samples: int, damaged: Sequence[Refusal]) -> DataError:
    if not videos:
        what = f"no sample can be read, {len(damaged):,} are damaged: {damaged[0].reason.removeprefix('damaged: ')}"
        return DataError(what, hint="look at `umt-data verify`")
    if videos == 1:
        what = f"all {samples:,} samples that can be read are of one video, which cannot be split"
        return DataError(what, hint="two sides without a video in common need two videos")
    return DataError(f"a share of {share:g} leaves one side without a sample", hint="choose another --share")


# What names the video of a sample in its json: that of Kinetics, ours, img2dataset's and video2dataset's.
_VIDEO = ("youtube_id", "source", "url")


def _told(nameless: int) -> tuple[str, ...]:
    if not nameless:
        return ()
    return (f"{nameless:,} samples do not say of which video they are ({', '.join(_VIDEO)}): each counts as one",)


def _one_side(listing: Listing, clips: Sequence[Clip], *, share: float, seed: int) -> Listing:
    return replace(listing, clips=tuple(clips), about={**listing.about, "split": {"share": share, "seed": seed}})


def _with_records(listing: Listing) -> Iterator[tuple[Clip, Record | DecodeError]]:
    """The clips of a listing of sets with their records; each tar is opened once, as its clips follow each other."""
    with progress(total=len(listing.clips), unit="sample", desc="split") as bar:
        for source, clips in groupby(listing.clips, key=lambda clip: clip.source):
            rows = ((clip, int(clip.extra["row"])) for clip in clips)
            if listing.media == "item":
                with closing(ShardSource(listing.root / source, look=False)) as items:
                    for clip, row in rows:
                        yield clip, _record_of(items, items.ref(row))
                        bar.update()
            else:
                records = records_of(listing.root / source)
                for clip, row in rows:
                    yield clip, records[row][1]
                    bar.update()


def _all_items(
    sets: Sequence[Path], root: Path, *, with_records: bool
) -> Iterator[tuple[str, int, str, Record | DecodeError]]:
    """(set below root, number, key, record) of every item of the sets; the record is empty unless it is asked for."""
    for folder in sets:
        with closing(ShardSource(folder, max_open=2)) as items:
            for number, ref in enumerate(progress(items.refs(), total=len(items), unit="item", desc="list")):
                record = _record_of(items, ref) if with_records else Record()
                yield folder.relative_to(root).as_posix(), number, items.key(ref), record


def _record_of(items: ShardSource, ref: SampleRef) -> Record | DecodeError:
    try:
        return dict(read_record(items, ref))
    except DecodeError as error:
        return error


def _samples(
    sets: Sequence[Path], manifests: Sequence[Manifest], root: Path, *, with_records: bool
) -> Iterator[tuple[str, int, str, Record | DecodeError]]:
    """(tar below root, row, key, record) of every sample of the sets; the record is empty where it is not asked for."""
    with progress(total=sum(manifest.num_samples for manifest in manifests), unit="sample", desc="list") as bar:
        for folder, manifest in zip(sets, manifests, strict=True):
            for shard in manifest.shards:
                tar = folder / shard.file
                source = tar.relative_to(root).as_posix()
                samples = records_of(tar) if with_records else ((sample, Record()) for sample in samples_of(tar))
                for row, (sample, record) in enumerate(samples):
                    yield source, row, sample.key, record
                bar.update(shard.samples)


def _none_left(sets: Sequence[Path], left_out: Sequence[Refusal]) -> DataError:
    if not left_out:
        return DataError(f"{some(sets, each=300)}: no sample there", hint="bad.csv says what became none")
    reasons = Counter(refusal.reason for refusal in left_out).most_common()
    return DataError(
        f"no sample of {some(sets, each=300)} is left: {some(f'{count:,} {reason}' for reason, count in reasons)}",
        hint="look at `umt-data stats`",
    )


def _check_goes_with(first: Manifest, other: Manifest, first_at: Path, other_at: Path) -> None:
    if other.media != first.media:
        raise ConfigError(f"{first_at} holds {first.media}, {other_at} {other.media}: they do not make one set")
    views = [views_of(manifest.options) for manifest in (first, other)]
    if views[0] != views[1] and first.media != "image":
        said = [f"with {as_options(one)}" if one else "without --views" for one in views]
        raise ConfigError(
            f"{first_at} was made {said[0]}, {other_at} {said[1]}: an evaluation would find its frames in some samples "
            "only",
            hint="make both with the same --views",
        )
    ours, theirs = first.class_lists, other.class_lists
    for field in sorted(ours.keys() | theirs.keys()):
        _check_classes(field, ours.get(field, ()), theirs.get(field, ()), first_at, other_at)


def _check_classes(field: str, ours: Sequence[str], theirs: Sequence[str], first_at: Path, other_at: Path) -> None:
    """Raises ConfigError where a label of one set would be another class in the other."""
    if ours == theirs:
        return
    if sorted(ours) == sorted(theirs):
        what = f"{first_at} and {other_at} have the same {len(ours)} classes in another order"
    else:
        what = f"{first_at} has {len(ours)} classes, {other_at} {len(theirs)}, and they are not the same"
    number = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    if number is not None:
        what += f": class {number} is {quoted(ours[number])} in the first, {quoted(theirs[number])} in the second"
    if field != "label":
        what += f" ({field})"
    raise ConfigError(
        what, hint="make both with the same --classes; a training run can also read several sets as they are"
    )
