"""Finished sets as a source: filter, split and merge copy samples to new shards, or make tables (`set_items.py`).

Nothing is decoded. Copies are byte for byte and dealt to shards anew: a merged set is mixed, a filtered one has full
shards.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.checking.item_statistics import columns_of
from data_prep.checking.samples import records_of
from data_prep.clip import Clip, Listing, Refusal
from data_prep.state.statistics import VIDEO_FIELDS, Columns
from umt_ds.data.order.views import as_options, views_of
from umt_ds.data.shards.manifest import Manifest, load_shards
from umt_ds.data.shards.sample_record import Record
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

    def why_not(self, samples: Columns) -> list[str | None]:
        """Of each of n samples the reason to leave it out; None if it stays. What is asked about and unknown is left
        out, too."""
        reasons = [f"damaged: {error}" if error else None for error in samples.texts("record_error")]
        for rule in (self._of_seconds, self._of_side, self._of_caption, self._of_label):
            if asked := rule(samples):
                reasons = [before or now for before, now in zip(reasons, asked, strict=True)]
        return reasons

    def _of_seconds(self, samples: Columns) -> list[str | None] | None:
        if not self.min_seconds and math.isinf(self.max_seconds):
            return None
        seconds = samples.numbers("duration_s")
        return _first_true(
            (np.isnan(seconds), "duration unknown"),
            (seconds < self.min_seconds, f"shorter than {self.min_seconds:g} s"),
            (seconds > self.max_seconds, f"longer than {self.max_seconds:g} s"),
        )

    def _of_side(self, samples: Columns) -> list[str | None] | None:
        if not self.min_side:
            return None
        side = np.minimum(samples.numbers("source_width"), samples.numbers("source_height"))  # NaN if one of them is
        return _first_true(
            (np.isnan(side), "size of the source unknown"),
            (side < self.min_side, f"short side below {self.min_side} pixels"),
        )

    def _of_caption(self, samples: Columns) -> list[str | None] | None:
        if not self.captioned:
            return None
        none = _first_true((~(samples.numbers("captions") > 0), "no caption"))
        return [error or why for error, why in zip(samples.texts("caption_error"), none, strict=True)]

    def _of_label(self, samples: Columns) -> list[str | None] | None:
        if not self.labelled:
            return None
        return _first_true((~(samples.is_known("label") | samples.is_known("label_name")), "no label"))


def _first_true(*rules: tuple[NDArray[np.bool_], str]) -> list[str | None]:
    """Of n samples each the text of the first rule that is true of it."""
    found: list[str | None] = np.select([rule for rule, _ in rules], [text for _, text in rules], "").tolist()
    return [text or None for text in found]


@dataclass(frozen=True)
class GivenSets:
    """Finished sets that go together, by their folders, which lie below `root`."""

    folders: tuple[Path, ...]
    manifests: tuple[Manifest, ...]
    root: Path

    @classmethod
    def load(cls, sets: Sequence[Path], load: Callable[[Path], Manifest]) -> GivenSets:
        """Raises ConfigError where they do not go together: one of them twice, other media, other class lists."""
        folders = tuple(absolute(folder) for folder in sets)
        twice = next((folder for number, folder in enumerate(folders) if folder in folders[:number]), None)
        if twice:
            raise ConfigError(f"{twice} is named twice", hint="name each set once")
        manifests = tuple(load(folder) for folder in folders)
        for folder, manifest in zip(folders, manifests, strict=True):
            _check_goes_with(manifests[0], manifest, folders[0], folder)
        return cls(folders, manifests, common_folder(folders))

    def place(self, path: Path) -> str:
        """Where a set or a tar of it lies below `root`."""
        return path.relative_to(self.root).as_posix()

    def about(self, verb: str, keep: Filter) -> dict[str, Any]:
        """What the manifest of a set that is made of them says of them."""
        asked = {name: value for name, value in vars(keep).items() if value != getattr(Filter(), name)}
        return {
            "source": verb,
            "media": self.manifests[0].media,
            "from": [{"name": manifest.name, "fingerprint": manifest.fingerprint} for manifest in self.manifests],
            **({"kept": asked} if asked else {}),
            "made_with": self.manifests[0].options,
        }


def list_sets(sets: Sequence[Path], *, keep: Filter | None = None, verb: str) -> Listing:
    """The samples of finished sets that `keep` lets through, to be copied to tars. For a table see `set_items`.

    Raises ConfigError where the sets do not go together, DataError where no sample is left.
    """
    keep = keep or Filter()
    given = GivenSets.load(sets, load_shards)
    clips: list[Clip] = []
    left_out: list[Refusal] = []
    for source, row, key, why in _samples(given, keep):
        if why:
            left_out.append(Refusal(source, why, key))
        else:
            clips.append(Clip(key, source, extra={"row": row}))
    if not clips:
        raise none_left(given.folders, left_out)
    return Listing(
        root=given.root,
        clips=tuple(clips),
        media="sample",
        left_out=tuple(left_out),
        labels=given.manifests[0].labels,
        about=given.about(verb, keep),
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
        video = next((str(record[field]) for field in VIDEO_FIELDS if record.get(field)), None)
        nameless += video is None
        if len(videos) < 2:
            videos.add(video or clip.key)
        sides[is_second_side(video or clip.key, share=share, seed=seed)].append(clip)
    if not sides[True] or not sides[False]:
        raise one_sided(share, videos=len(videos), samples=len(listing.clips) - len(damaged), damaged=damaged)
    train = _one_side(listing, sides[False], share=round(1 - share, 6), seed=seed)
    train = replace(train, left_out=(*train.left_out, *damaged), notes=(*train.notes, *nameless_note(nameless)))
    return train, replace(_one_side(listing, sides[True], share=share, seed=seed), left_out=(), notes=())


def is_second_side(video: str, *, share: float, seed: int) -> bool:
    """Whether a split puts this video among the `share`."""
    digest = hashlib.sha256(f"{seed} {video}".encode(errors="backslashreplace")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def about_split(about: Mapping[str, object], *, share: float, seed: int) -> dict[str, Any]:
    """What the manifest of one side says."""
    return {**about, "split": {"share": share, "seed": seed}}


def one_sided(share: float, *, videos: int, samples: int, damaged: Sequence[Refusal]) -> DataError:
    """Why a split has only one side."""
    if not videos:
        what = f"no sample can be read, {len(damaged):,} are damaged: {damaged[0].reason.removeprefix('damaged: ')}"
        return DataError(what, hint="look at `umt-data verify`")
    if videos == 1:
        what = f"all {samples:,} samples that can be read are of one video, which cannot be split"
        return DataError(what, hint="two sides without a video in common need two videos")
    return DataError(f"a share of {share:g} leaves one side without a sample", hint="choose another --share")


def nameless_note(nameless: int) -> tuple[str, ...]:
    """What a split says of samples without a video."""
    if not nameless:
        return ()
    return (f"{nameless:,} samples do not say of which video they are ({', '.join(VIDEO_FIELDS)}): each counts as one",)


def _one_side(listing: Listing, clips: Sequence[Clip], *, share: float, seed: int) -> Listing:
    return replace(listing, clips=tuple(clips), about=about_split(listing.about, share=share, seed=seed))


def _with_records(listing: Listing) -> Iterator[tuple[Clip, Record | DecodeError]]:
    """The clips of a listing of sets with their records; each tar is opened once, as its clips follow each other."""
    with progress(total=len(listing.clips), unit="sample", desc="split") as bar:
        for source, clips in groupby(listing.clips, key=lambda clip: clip.source):
            records = records_of(listing.root / source)
            for clip in clips:
                yield clip, records[int(clip.extra["row"])][1]
                bar.update()


_Found = tuple[str, int, str, str | None]  # tar below root; row; key; why it is left out


def _samples(given: GivenSets, keep: Filter) -> Iterator[_Found]:
    """Every sample of the sets."""
    for folder, manifest in zip(given.folders, given.manifests, strict=True):
        with closing(keys_and_reasons(folder, manifest, keep)) as shards:
            for entry, (keys, reasons) in zip(manifest.shards, shards, strict=True):
                source = given.place(folder / entry.file)
                for row, (key, why) in enumerate(zip(keys, reasons, strict=True)):
                    yield source, row, key, why


def keys_and_reasons(
    folder: Path, manifest: Manifest, keep: Filter
) -> Generator[tuple[Sequence[str], Sequence[str | None]], None, None]:
    """Of each shard the keys of its items, and why they are left out; nothing but keys is read if nothing is asked."""
    with progress(total=manifest.num_samples, unit="item", desc="list") as bar:
        if keep.reads_json:
            for columns in columns_of(folder, manifest):
                keys = [key or "" for key in columns.texts("key")]
                yield keys, keep.why_not(columns)
                bar.update(len(keys))
            return
        with closing(ShardSource(folder, max_open=1)) as items:
            for shard in range(len(items.counts)):
                keys = items.keys(shard)
                yield keys, [None] * len(keys)
                bar.update(len(keys))


def none_left(sets: Sequence[Path], left_out: Sequence[Refusal]) -> DataError:
    """Why a set would be empty."""
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
