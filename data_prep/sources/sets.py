"""Finished sets as a source: filter, split and merge copy samples byte for byte into new shards.

Nothing is decoded. Samples are dealt to shards anew, so a merged set is mixed and a filtered one has full shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.clip import Clip, Listing, Refusal
from data_prep.decode import index_of
from data_prep.progress import progress
from data_prep.samples import StoredSample, caption_text, samples_of
from umt_ds.data.places import absolute, common_folder
from umt_ds.data.records import Manifest, load_manifest
from umt_ds.errors import ConfigError, DataError, DecodeError


@dataclass(frozen=True)
class Filter:
    """What a sample must be to stay. Seconds and pixels are those of the source."""

    min_seconds: float = 0.0
    max_seconds: float = float("inf")
    min_side: int = 0
    captioned: bool = False
    labelled: bool = False

    @property
    def reads_json(self) -> bool:
        return self != Filter()

    def why_not(self, record: dict[str, Any]) -> str | None:
        """The reason to leave a sample out; None if it stays."""
        seconds = float(record.get("duration_s") or 0)
        side = min(int(record.get("source_width") or 0), int(record.get("source_height") or 0))
        if self.min_seconds and seconds < self.min_seconds:
            return f"shorter than {self.min_seconds:g} s"
        if seconds > self.max_seconds:
            return f"longer than {self.max_seconds:g} s"
        if side < self.min_side:
            return f"short side below {self.min_side} pixels"
        if self.captioned and not caption_text(record).strip():
            return "no caption"
        if self.labelled and "label" not in record:
            return "no label"
        return None


def list_sets(sets: Sequence[Path], *, keep: Filter | None = None, verb: str) -> Listing:
    """The samples of finished sets that `keep` lets through.

    Raises ConfigError where the sets do not go together: other media, other class lists.
    """
    keep = keep or Filter()
    sets = [absolute(folder) for folder in sets]
    manifests = [load_manifest(folder) for folder in sets]
    first = manifests[0]
    for folder, manifest in zip(sets, manifests, strict=True):
        _check_goes_with(first, manifest, sets[0], folder)
    root = common_folder(sets)
    clips: list[Clip] = []
    left_out: list[Refusal] = []
    for source, row, sample in _samples(sets, manifests, root):
        why = keep.why_not(_record(sample)) if keep.reads_json else None
        if why:
            left_out.append(Refusal(source, why, sample.key))
        else:
            clips.append(Clip(sample.key, source, extra={"row": row}))
    if not clips:
        raise DataError(f"no sample of {', '.join(map(str, sets))} is left", hint="look at `umt-data stats`")
    asked = {name: value for name, value in vars(keep).items() if value != getattr(Filter(), name)}
    return Listing(
        root=root,
        clips=tuple(clips),
        media="sample",
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

    Which side a sample goes to is a hash of its video (the json's youtube_id, else its source file) and `seed`, so
    that clips of one video stay together, and a video stays on its side when the set grows.
    """
    sides: dict[bool, list[Clip]] = {False: [], True: []}
    for clip in progress(listing.clips, unit="sample", desc="split"):
        digest = hashlib.sha256(f"{seed} {_video_of(clip, listing.root)}".encode()).digest()
        sides[int.from_bytes(digest[:8], "big") < share * 2**64].append(clip)
    if not sides[True] or not sides[False]:
        raise DataError(f"a share of {share:g} leaves one side without a sample", hint="choose another --share")
    train, held_out = (
        replace(listing, clips=tuple(sides[side]), about={**listing.about, "split": {"share": part, "seed": seed}})
        for side, part in ((False, round(1 - share, 6)), (True, share))
    )
    return train, held_out


def _video_of(clip: Clip, root: Path) -> str:
    sample = _stored(clip, root)
    record = _record(sample)
    return str(record.get("youtube_id") or record.get("source") or sample.key)


def _stored(clip: Clip, root: Path) -> StoredSample:
    tar, row = root / clip.source, int(clip.extra["row"])
    return StoredSample(tar, clip.key, tuple(index_of(tar).members(row)))


def _samples(
    sets: Sequence[Path], manifests: Sequence[Manifest], root: Path
) -> Iterator[tuple[str, int, StoredSample]]:
    """(tar below root, row, sample) of every sample of the sets."""
    with progress(total=sum(manifest.num_samples for manifest in manifests), unit="sample", desc="list") as bar:
        for folder, manifest in zip(sets, manifests, strict=True):
            for shard in manifest.shards:
                tar = folder / shard.file
                source = tar.relative_to(root).as_posix()
                for row, sample in enumerate(samples_of(tar)):
                    yield source, row, sample
                bar.update(shard.samples)


def _record(sample: StoredSample) -> dict[str, Any]:
    try:
        return sample.record()
    except DecodeError as error:
        raise DataError(f"{sample.tar}: {error.what}", hint="`umt-data verify` lists all damage") from error


def _check_goes_with(first: Manifest, other: Manifest, first_at: Path, other_at: Path) -> None:
    if other.media != first.media:
        raise ConfigError(f"{first_at} holds {first.media}, {other_at} {other.media}: they do not make one set")
    if other.labels != first.labels:
        raise ConfigError(
            f"{first_at} has {len(first.labels)} classes, {other_at} {len(other.labels)}, and they are not the same",
            hint="make both with the same --classes; a training run can also read several sets as they are",
        )
