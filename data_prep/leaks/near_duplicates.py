"""Near duplicates between finished sets: validation clips that stand, re-encoded or cropped, in a training set too.

A frame becomes a perceptual hash of 64 bits (imagehash.phash), of which re-encoding, scaling and brightness change a
few and another picture about half. The comparison is exact: every frame of one set with every frame of the other.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from data_prep.checking.samples import ShardClips, each_used_shard, find_samples
from data_prep.checking.sheet import draw_grid, draw_tile, save_png
from data_prep.decode import evenly_spread
from data_prep.engines import WorkerFailure
from umt_ds.data.pixels.picture import Pixels
from umt_ds.data.shards.storage import absolute, write_whole
from umt_ds.environment import temporary_folder
from umt_ds.errors import ConfigError, DataError

LEAK_COLUMNS = ("train_key", "against_key", "against", "kind", "detail")  # kind: id, time or near

# Chosen by planted duplicates of real clips (README, "Near duplicates").
FRAMES, DISTANCE, SHARE = 8, 10, 0.5

_SIDE = 32  # pixels of the square that is hashed, as imagehash.phash does
_MIN_CONTRAST = 8.0  # grey levels, standard deviation: a black or faded frame is like any other one
_BAR_LEVEL = 24  # grey level up to which an outer row or column is a black bar
_AT_ONCE = 1 << 19  # comparisons whose results fit the cache: 1.4e9 a second and core; four times as many: 0.8e9


@dataclass(frozen=True)
class Near:
    """A clip of the training set that shows what a clip of another set shows."""

    train_key: str
    against_key: str
    against: str  # name of the other set
    matching: int  # frames of the other clip that have a like in the training clip
    usable: int  # its frames that were compared
    mean_distance: float  # bits of 64, over the matching frames
    mirrored: bool  # left and right are exchanged

    @property
    def likeness(self) -> tuple[float, float]:
        """The larger, the surer it is that both show the same."""
        return self.matching / self.usable, -self.mean_distance

    @property
    def detail(self) -> str:
        mirrored = ", mirrored" if self.mirrored else ""
        return f"{self.matching} of {self.usable} frames, mean distance {self.mean_distance:.1f}{mirrored}"

    def row(self) -> tuple[str, ...]:
        """Its row of leaks.csv."""
        return self.train_key, self.against_key, self.against, "near", self.detail


@dataclass(frozen=True)
class NearReport:
    """The pairs found, and what could not be compared: only what was compared can be called clean."""

    pairs: tuple[Near, ...]
    train: int  # clips read
    against: int
    blank: int  # clips among them with nearly uniform frames only: they match nothing
    unread: tuple[str, ...]  # clips and shards that could not be read, and why


def near_duplicates(
    train: Path,
    against: Sequence[Path],
    *,
    frames: int = FRAMES,
    distance: int = DISTANCE,
    share: float = SHARE,
    workers: int = 1,
) -> NearReport:
    """The clips of the finished set `train` that show what clips of the sets `against` show.

    Of each clip `frames` evenly spread frames are hashed; nearly uniform ones do not count. Two clips match if a
    `share` of the against clip's frames, or of their mirror images, each have a frame of the train clip within
    `distance` of 64 bits. Pairs are sorted by set and keys. Where `train` is among `against`, too, its pairs are those
    of `once`.
    Raises DataError where a set or shard is missing or damaged, ConfigError where one of `against` is named twice.
    """
    names = set_names(train, against)
    tables = [
        _hash_set(folder, frames=frames, desc=name, workers=workers)
        for name, folder in zip(names, against, strict=True)
    ]
    others = _join(tables)
    set_of = [name for name, table in zip(names, tables, strict=True) for _ in table.keys]
    pairs: list[Near] = []
    unread = list(others.unread)
    itself = {name for name, folder in zip(names, against, strict=True) if is_same_place(train, folder)}
    clips, blank = 0, sum(table.blank for name, table in zip(names, tables, strict=True) if name not in itself)
    with TemporaryDirectory(prefix="umt-", dir=temporary_folder()) as scratch:
        file = Path(scratch, "against.npz")  # in a file, so that it is not sent along with each shard
        np.savez(file, starts=others.starts, hashes=others.hashes, mirrored=others.mirrored)
        compare = partial(_compare_shard, against=file, frames=frames, distance=distance, share=share)
        for shard, compared in each_used_shard(compare, train, desc="compare", workers=workers, decodes=True):
            if isinstance(compared, WorkerFailure):
                unread.append(f"{shard.file}: {compared.reason}")
                continue
            clips, blank = clips + compared.clips, blank + compared.blank
            unread += compared.unread
            pairs += [
                Near(key, others.keys[clip], set_of[clip], matching, int(others.usable[clip]), mean, mirrored)
                for key, clip, matching, mean, mirrored in compared.matches
            ]
    pairs = [*(p for p in pairs if p.against not in itself), *once(p for p in pairs if p.against in itself)]
    pairs.sort(key=lambda pair: (pair.against, pair.against_key, pair.train_key))
    return NearReport(tuple(pairs), clips, len(others.keys), blank, tuple(dict.fromkeys(unread)))


def once(pairs: Iterable[Near]) -> list[Near]:
    """The pairs of a set that was compared with itself, each once and no clip with itself: of the two directions the
    better one. `train_key` is the later key, so that to exclude those leaves one clip of each."""
    best: dict[tuple[str, str], Near] = {}
    for pair in pairs:
        later, earlier = sorted((pair.train_key, pair.against_key), reverse=True)
        known = best.get((later, earlier))
        if later != earlier and (known is None or pair.likeness > known.likeness):
            best[later, earlier] = replace(pair, train_key=later, against_key=earlier)
    return list(best.values())


def is_same_place(one: Path, other: Path) -> bool:
    """Whether two paths name one list or set."""
    return absolute(one) == absolute(other)


def set_names(train: Path, against: Sequence[Path]) -> list[str]:
    """A short name for each set of `against`: its folder's, with as many folders above as keep them apart.

    `train` may be among them. Raises ConfigError where one of them is named twice.
    """
    parts = [absolute(folder).parts for folder in against]
    repeated = [folder for folder, own in zip(against, parts, strict=True) if parts.count(own) > 1]
    if repeated:
        raise ConfigError(f"{repeated[0]} is named twice", hint="name each set once")
    places = {absolute(train).parts, *parts}
    depth = next(n for n in range(1, max(map(len, places)) + 1) if len({own[-n:] for own in places}) == len(places))
    return ["/".join(own[-depth:]) for own in parts]


# --- hashing


@dataclass(frozen=True)
class Hashed:
    """The frames of some clips as hashes. n clips, f usable frames; those of clip i are `starts[i] : starts[i+1]`."""

    keys: tuple[str, ...]  # n
    starts: NDArray[np.int64]  # [n+1]
    hashes: NDArray[np.uint64]  # [f]
    mirrored: NDArray[np.uint64]  # [f] of the mirror images
    unread: tuple[str, ...] = ()

    @property
    def usable(self) -> NDArray[np.int64]:
        """[n] How many frames of each clip are not uniform."""
        return np.diff(self.starts)

    @property
    def blank(self) -> int:
        return int(np.count_nonzero(self.usable == 0))


def frame_hashes(frame: Pixels) -> tuple[int, int] | None:
    """The 64-bit perceptual hash of a frame [H,W,3] and of its mirror image; None where it is nearly uniform.

    Black bars are cut off first: the same film is often stored with and without them.
    """
    import imagehash

    grey = np.asarray(Image.fromarray(frame).convert("L"))
    rows, columns = (np.flatnonzero(grey.max(axis=axis) > _BAR_LEVEL) for axis in (1, 0))
    if not len(rows):
        return None
    picture = Image.fromarray(grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    small = picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    if np.asarray(small).std() < _MIN_CONTRAST:
        return None
    bits = [np.packbits(imagehash.phash(image).hash) for image in (small, ImageOps.mirror(small))]
    plain, mirrored = (int.from_bytes(eight.tobytes(), "big") for eight in bits)
    return plain, mirrored


def _hash_set(folder: Path, *, frames: int, desc: str, workers: int) -> Hashed:
    tables = []
    for shard, hashed in each_used_shard(
        partial(_hash_shard, frames=frames), folder, desc=desc, workers=workers, decodes=True
    ):
        tables.append(_hashed([], [f"{shard.file}: {hashed.reason}"]) if isinstance(hashed, WorkerFailure) else hashed)
    return _join(tables)


def _hash_shard(shard: ShardClips, *, frames: int) -> Hashed:
    clips: list[tuple[str, list[tuple[int, int]]]] = []
    unread: list[str] = []
    for sample in shard.samples():
        try:
            pictures = sample.frames(lambda count: evenly_spread(count, frames))
        except DataError as error:
            unread.append(f"{shard.tar.name} {sample.key}: {error.what}")
            continue
        clips.append((sample.key, [hashes for hashes in map(frame_hashes, pictures) if hashes]))
    return _hashed(clips, unread)


def _hashed(clips: Sequence[tuple[str, list[tuple[int, int]]]], unread: Sequence[str] = ()) -> Hashed:
    frames = np.array([pair for _, pairs in clips for pair in pairs], dtype=np.uint64).reshape(-1, 2)
    starts = np.cumsum([0, *(len(pairs) for _, pairs in clips)], dtype=np.int64)
    return Hashed(tuple(key for key, _ in clips), starts, frames[:, 0].copy(), frames[:, 1].copy(), tuple(unread))


def _join(tables: Sequence[Hashed]) -> Hashed:
    """One table of the clips of several."""
    tables = [_hashed([]), *tables]
    return Hashed(
        keys=tuple(key for table in tables for key in table.keys),
        starts=np.cumsum([0, *(count for table in tables for count in table.usable)], dtype=np.int64),
        hashes=np.concatenate([table.hashes for table in tables]),
        mirrored=np.concatenate([table.mirrored for table in tables]),
        unread=tuple(line for table in tables for line in table.unread),
    )


# --- comparing

Match = tuple[str, int, int, float, bool]  # train key, against clip, matching frames, mean distance, mirrored


@dataclass(frozen=True)
class _Compared:
    """What comes back of a training shard."""

    matches: tuple[Match, ...]
    clips: int
    blank: int
    unread: tuple[str, ...]


def _compare_shard(shard: ShardClips, *, against: Path, frames: int, distance: int, share: float) -> _Compared:
    train = _hash_shard(shard, frames=frames)
    matches = match_clips(train, _load(against), distance=distance, share=share)
    return _Compared(tuple(matches), len(train.keys), train.blank, train.unread)


@lru_cache(maxsize=1)
def _load(file: Path) -> Hashed:
    """The against clips, without their keys; read once by each process."""
    with np.load(file) as arrays:
        return Hashed(keys=(), **arrays)


def match_clips(train: Hashed, others: Hashed, *, distance: int, share: float) -> list[Match]:
    """The pairs of clips that match, as they are or mirrored: the better of the two where both do."""
    best: dict[tuple[int, int], Match] = {}
    step = max(1, _AT_ONCE // (FRAMES * max(1, len(train.hashes))))
    for mirrored, hashes in ((False, others.hashes), (True, others.mirrored)):
        for first in range(0, len(others.starts) - 1, step):
            starts = others.starts[first : first + step + 1]
            for clip, row, matching, mean in _match_some(train, starts, hashes, distance=distance, share=share):
                pair = (first + clip, row)
                match = (train.keys[row], first + clip, matching, mean, mirrored)
                if pair not in best or (matching, -mean) > (best[pair][2], -best[pair][3]):
                    best[pair] = match
    return list(best.values())


def _match_some(
    train: Hashed, starts: NDArray[np.int64], hashes: NDArray[np.uint64], *, distance: int, share: float
) -> list[tuple[int, int, int, float]]:
    """(against clip, train clip, matching frames, mean distance) for a few against clips. a × g frames."""
    apart = np.bitwise_count(hashes[starts[0] : starts[-1], None] ^ train.hashes)  # u8 [a,g]
    near = np.flatnonzero(apart <= distance)
    if not len(near):
        return []
    bits = apart.ravel()[near]
    order = np.argsort(bits, kind="stable")
    near, bits = near[order], bits[order]
    frame, train_frame = np.divmod(near, len(train.hashes))
    clips = len(train.keys)
    row = np.repeat(np.arange(clips), train.usable)[train_frame]
    # of a train clip only the nearest frame counts: the first of each (frame, row), as they are sorted by bits
    _, nearest = np.unique(frame * clips + row, return_index=True)
    frame, row, bits = frame[nearest], row[nearest], bits[nearest]
    usable = np.diff(starts)
    clip = np.repeat(np.arange(len(usable)), usable)[frame]
    pairs, which, matching = np.unique(clip * clips + row, return_inverse=True, return_counts=True)
    means = np.bincount(which, weights=bits) / matching
    clip, row = np.divmod(pairs, clips)
    enough = matching >= share * usable[clip] - 1e-9
    found = zip(
        clip[enough].tolist(), row[enough].tolist(), matching[enough].tolist(), means[enough].tolist(), strict=True
    )
    return list(found)


# --- what comes out


def write_leaks(path: Path, rows: Iterable[Iterable[str]]) -> None:
    """Write rows of LEAK_COLUMNS, sorted, as csv."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(LEAK_COLUMNS)
    table.writerows(sorted(map(tuple, rows)))
    write_whole(path, text.getvalue().encode(errors="backslashreplace"))


def write_pairs(png: Path, pairs: Sequence[Near], *, train: Path, against: Sequence[Path], most: int = 24) -> int:
    """Draw up to `most` pairs, the least certain first, side by side: train left, the other set right.

    Returns how many were drawn.
    """
    chosen = sorted(pairs, key=lambda pair: pair.likeness)[:most]
    if not chosen:
        raise DataError("there is no pair to draw")
    folders = dict(zip(set_names(train, against), against, strict=True))
    ours = find_samples(train, {pair.train_key for pair in chosen})
    theirs = {
        name: find_samples(folder, {pair.against_key for pair in chosen if pair.against == name})
        for name, folder in folders.items()
    }
    rows = [
        _draw_pair(pair, draw_tile(ours[pair.train_key]), draw_tile(theirs[pair.against][pair.against_key]))
        for pair in chosen
    ]
    save_png(draw_grid(rows, columns=1), png)
    return len(rows)


def _draw_pair(pair: Near, train: Image.Image, other: Image.Image) -> Image.Image:
    """Two tiles, and above them what makes them a pair."""
    above = 18
    drawn = Image.new("RGB", (train.width + other.width, above + train.height), "white")
    drawn.paste(train, (0, above))
    drawn.paste(other, (train.width, above))
    text = f"left train, right {pair.against}: {pair.detail}"
    ImageDraw.Draw(drawn).text((8, 4), text, fill="darkred", font=ImageFont.load_default(size=12))
    return drawn
