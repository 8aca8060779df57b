"""Features of a frozen model for each clip of a set, computed once and kept in a folder.

    FOLDER/val-0123456789abcdef.lock                  held by the process that computes them
    FOLDER/val-0123456789abcdef/mean/features.json    what was asked, the items, and a hash of each file
                                     mean.f32         [N,D], the mean over all tokens of a clip
    FOLDER/val-0123456789abcdef/tokens-2/…            the same, and:
                                     tokens.f16       [N,n,D], here averaged over 2 x 2 patches of each frame

The name of a set's folder is a hash of all that decides the numbers. A folder appears whole: what a killed process
began is removed and begun again. Files are held against their hashes before they are used.

Shapes: N clips that could be read, B of a batch, T frames, n tokens, D width, K pooled patches along a side.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from umt_ds.data.evaluation import EvalBatch, EvaluationSet, ItemInfo, LeftOut
from umt_ds.errors import ConfigError, MachineError, WeightsError
from umt_ds.evaluation.encode import Encode, no_beat
from umt_ds.evaluation.evaluator import Beat
from umt_ds.models.vit import VideoViT
from umt_ds.whole_file import write_whole

log = logging.getLogger("umt_ds")

FORMAT = 1
_ABOUT, _MEAN, _TOKENS = "features.json", "mean.f32", "tokens.f16"
_TUPLES = ("labels", "captions", "video")  # of an item
_NOT_SAID = {"video": (), "group": None}  # by files of older versions


@dataclass(frozen=True)
class FrozenFeatures:
    """folder: where they lie. items: the N clips that could be read, in the order of the set. shape: n, D of tokens;
    n is 0 where the mean alone is stored."""

    folder: Path
    items: tuple[ItemInfo, ...]
    left_out: tuple[LeftOut, ...]
    shape: tuple[int, int]

    @cached_property
    def mean(self) -> Tensor:
        """f32 [N,D]."""
        flat = np.fromfile(self.folder / _MEAN, np.float32)
        return torch.from_numpy(flat).reshape(len(self.items), self.shape[1])

    @cached_property
    def _tokens(self) -> NDArray[np.float16]:
        return np.memmap(self.folder / _TOKENS, np.float16, mode="r", shape=(len(self.items), *self.shape))

    def tokens(self, rows: Tensor) -> Tensor:
        """Of some clips, i64 [B] → f16 [B,n,D]; read from the disk in the order in which they lie there."""
        ascending, places = torch.unique(rows, return_inverse=True)
        return torch.from_numpy(self._tokens[ascending.numpy()])[places]


@dataclass(frozen=True)
class FeatureRequest:
    """Features that are wanted: of `items` by `encode`, which gives tokens [B,n,D].

    decisive: all that decides the numbers beside the set and how it is shown, such as the weights; JSON types.
    pool: tokens are stored, averaged over pool x pool patches of each frame; None: the mean over all tokens alone.
    """

    items: EvaluationSet
    encode: Encode
    decisive: Mapping[str, Any]
    pool: int | None
    num_workers: int = 0

    @property
    def asked(self) -> dict[str, Any]:
        """What decides the numbers; JSON types."""
        request = self.items.request
        return {
            "format": FORMAT,
            "set": self.items.manifest.fingerprint,
            "limit": len(self.items) if len(self.items) < self.items.manifest.num_samples else None,
            "frames": request.frames.text,
            "side": request.side,
            "view": request.view,
            "antialias": request.antialias,
            "labels": list(request.label_fields),
            **self.decisive,
        }

    @property
    def name(self) -> str:
        """Of the folder for this set and this model."""
        text = json.dumps(self.asked, sort_keys=True)
        return f"{self.items.shards.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @property
    def stored_as(self) -> str:
        return "mean" if self.pool is None else f"tokens-{self.pool}"

    def pooled(self, tokens: Tensor) -> Tensor:
        """[B,n,D] → [B,n/K²,D], the mean over K x K patches of each frame. Raises ConfigError where they do not fit."""
        return pool_patches(tokens, frames=self.items.request.frames.count, size=self.pool or 1)

    def shape(self) -> tuple[int, int]:
        """n and D as they would be stored. One pass of a black clip."""
        with torch.no_grad():
            tokens = self.encode(self.items.empty_batch().pixels)
        count, width = tokens.shape[1:] if self.pool is None else self.pooled(tokens).shape[1:]
        return (0 if self.pool is None else count), width


def pool_patches(tokens: Tensor, *, frames: int, size: int) -> Tensor:
    """Tokens of T square frames [B,T·h·w,D] → the mean over size x size patches of each [B,T·h·w/size²,D].

    Raises ConfigError where a frame's patches are no square, or its side is no multiple of `size`."""
    if size == 1:
        return tokens
    clips, count, width = tokens.shape
    side = round((count / frames) ** 0.5)
    if side * side * frames != count or side % size:
        fitting = ", ".join(str(n) for n in range(2, side + 1) if side % n == 0)
        raise ConfigError(
            f"--pool {size}: a frame has {side} x {side} patches, which are not made of {size} x {size}",
            hint=f"--pool takes one of {fitting}",
        )
    planes = tokens.reshape(clips * frames, side, side, width).permute(0, 3, 1, 2)
    return F.avg_pool2d(planes.float(), size).permute(0, 2, 3, 1).reshape(clips, -1, width)


def all_tokens(encoder: VideoViT) -> Encode:
    """All tokens of whole clips after the last norm, [B,n,D]; of a classifier, which has none there, before fc_norm."""
    device = next(encoder.parameters()).device

    def encode(pixels: Tensor) -> Tensor:
        return VideoViT.forward(encoder, pixels.to(device)).tokens  # a trained module's own `forward` gives a loss

    return encode


# ---------------------------------------------------------------- looking


def find_features(folder: Path, request: FeatureRequest) -> FrozenFeatures | None:
    """What was computed before, as it is on the disk: each file is read and held against its hash. None where there is
    nothing, or it is damaged, which is said in the log."""
    here = folder / request.name
    names = [request.stored_as]
    if request.pool is None and here.is_dir():  # with tokens there is the mean, too
        names += sorted(path.name for path in here.glob("tokens-*") if path.suffix != ".partial")
    for name in names:
        try:
            return _read(here / name, request)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s is damaged and not used: %s", here / name, error)
    return None


def _read(folder: Path, request: FeatureRequest) -> FrozenFeatures:
    """Raises FileNotFoundError where there is nothing; one of the errors above for what is damaged."""
    about = json.loads((folder / _ABOUT).read_text())
    if about["asked"] != request.asked:
        raise ValueError(f"{_ABOUT} tells of other features")
    items = tuple(
        ItemInfo(**(_NOT_SAID | item | {name: tuple(item[name]) for name in _TUPLES if name in item}))
        for item in about["items"]
    )
    tokens, width = map(int, about["shape"])
    sizes = {_MEAN: len(items) * width * 4} | ({_TOKENS: len(items) * tokens * width * 2} if tokens else {})
    for name, size in sizes.items():
        _verify(folder / name, size=size, sha256=about["files"][name])
    return FrozenFeatures(folder, items, tuple(LeftOut(**one) for one in about["left_out"]), (tokens, width))


def _verify(path: Path, *, size: int, sha256: str) -> None:
    """Raises ValueError for a file that is not the one that was written, OSError where the disk does not give it."""
    if not path.exists():
        raise ValueError(f"{path.name} is missing")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if path.stat().st_size != size or found != sha256:
        raise ValueError(f"{path.name} was altered (sha256 differs)")


# ---------------------------------------------------------------- computing


def compute_features(folder: Path, request: FeatureRequest, *, beat: Beat = no_beat) -> FrozenFeatures:
    """Each clip of the set through the model, once; `beat` after each batch.

    Raises DataError where too many clips cannot be read, WeightsError where a feature is no number, MachineError where
    another process is at it.
    """
    here = folder / request.name / request.stored_as
    partial = here.with_name(f"{here.name}.partial")
    with _alone(folder / f"{request.name}.lock"):
        for left in (here, partial):  # damaged; of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            _write(partial, request, beat)
            partial.rename(here)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return _read(here, request)


@torch.no_grad()
def _write(folder: Path, request: FeatureRequest, beat: Beat) -> None:
    items: list[ItemInfo] = []
    left_out: list[LeftOut] = []
    shape = (0, 0)
    with (
        _Hashed(folder / _MEAN) as means,
        _Hashed(folder / _TOKENS, made=request.pool is not None) as patches,
        closing(request.items.batches(num_workers=request.num_workers)) as batches,
    ):
        for batch in batches:
            if batch.items:
                shape = _add(batch, request, means, patches)
            items += batch.items
            left_out += batch.left_out
            beat()
    request.items.check(left_out)
    about = {
        "asked": request.asked,
        "shape": shape,
        "files": {file.path.name: file.sha256 for file in (means, patches) if file.made},
        "items": [asdict(item) for item in items],
        "left_out": [asdict(one) for one in left_out],
    }
    write_whole(folder / _ABOUT, json.dumps(about))


def _add(batch: EvalBatch, request: FeatureRequest, means: _Hashed, patches: _Hashed) -> tuple[int, int]:
    """The features of a batch behind those of the batches before it; their shape, see `FeatureRequest.shape`."""
    tokens = request.encode(batch.pixels)[: len(batch.items)]  # [B,n,D]
    means.add(_finite(tokens.float().mean(dim=1), batch))
    if request.pool is None:
        return 0, tokens.shape[2]
    stored = _finite(request.pooled(tokens).half(), batch)
    patches.add(stored)
    return stored.shape[1], stored.shape[2]


def _finite(features: Tensor, batch: EvalBatch) -> Tensor:
    """On the CPU. Raises WeightsError where a number is infinite or none."""
    features = features.cpu()
    good = torch.isfinite(features).flatten(1).all(dim=1)
    if not good.all():
        key = batch.items[int(good.logical_not().nonzero()[0])].key
        raise WeightsError(
            f"the features of clip {key} are no finite numbers in {str(features.dtype).removeprefix('torch.')}",
            hint="are these the right weights for this model?",
        )
    return features


class _Hashed:
    """A file that is written from beginning to end, and the hash of what it holds. made: False where there is none."""

    def __init__(self, path: Path, *, made: bool = True) -> None:
        self.path, self.made = path, made
        self._hash = hashlib.sha256()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> _Hashed:
        self._file = self.path.open("wb") if self.made else None
        return self

    def __exit__(self, *raised: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, rows: Tensor) -> None:
        assert self._file is not None
        data = rows.contiguous().numpy().tobytes()
        self._hash.update(data)
        self._file.write(data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Raises MachineError where another process holds the lock."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MachineError(
                f"another process is computing the features of {lock.with_suffix('')}", hint="wait for it to end"
            ) from error
        except OSError:  # a file system without locks
            log.warning("%s is on a file system without locks: no other process may compute the same features", lock)
        yield
        with suppress(OSError):
            lock.unlink()
