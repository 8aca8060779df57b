"""What all ranks of a run see together, put together from one loader per rank: no process group needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.support.shards import noisy_frames, write_shards
from umt_ds.batch import Batch, Targets, Tokens
from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.pixels.augment import draw_view, render
from umt_ds.keyed import Stream, add_digests

torch.set_num_threads(1)

PLAN = LoaderPlan(seed=3, global_draws=12, micro=12, image_side=16, window=2, max_bad_rate=0.5)
SPARSE = FramePolicy("sparse", 3)


def spec(folder: Path, *, name: str = "tiny", weight: float | None = None) -> SourceSpec:
    return SourceSpec(name, folder, SPARSE, weight)


def training_view(frames: NDArray[np.uint8], *, side: int, stream: Stream, **how: Any) -> NDArray[np.uint8]:
    """A random view of a clip, as a worker makes it: u8 [T,H,W,3] → u8 [T,side,side,3]."""
    out = np.empty((len(frames), side, side, 3), np.uint8)
    render(frames, draw_view(frames.shape[2], frames.shape[1], side=side, stream=stream, **how), out)
    return out


def global_batch(
    folder: Path | Sequence[SourceSpec],
    steps: range,
    *,
    world: int = 1,
    accumulation: int = 1,
    workers: int = 0,
    plan: LoaderPlan = PLAN,
) -> list[Batch]:
    """What all ranks together see in each step of a folder, or of several: one batch, rows in slot order."""
    sources = folder if isinstance(folder, Sequence) else [spec(folder)]
    micro = plan.global_draws // (world * accumulation)
    parts: dict[int, list[Batch]] = {step: [] for step in steps}
    for rank in range(world):
        own = replace(plan, micro=micro, world=world, accumulation=accumulation, rank=rank, num_workers=workers)
        loader = Loader(sources, own, label_field="label")
        for step in steps:
            got = list(loader.micro_batches(step))
            assert len(got) == accumulation
            parts[step] += got
        loader.close()
    return [joined(parts[step]) for step in steps]


def joined(batches: list[Batch]) -> Batch:
    order = torch.cat([b.slots for b in batches]).argsort()
    keys = [key for b in batches for key in b.keys]
    return Batch(
        media="video",
        pixels=torch.cat([b.pixels for b in batches])[order],
        draws=torch.cat([b.draws for b in batches])[order],
        slots=torch.cat([b.slots for b in batches])[order],
        keys=tuple(keys[i] for i in order.tolist()),
        digest=add_digests(*(b.digest for b in batches)),
        substituted=sum(b.substituted for b in batches),
        targets=Targets(labels=torch.cat([_labels(b) for b in batches])[order]),
    )


def _labels(batch: Batch) -> Tensor:
    assert batch.targets.labels is not None
    return batch.targets.labels


def consume(loader: Loader, steps: range) -> None:
    for step in steps:
        list(loader.micro_batches(step))


def assert_same(one: Batch, other: Batch) -> None:
    for name in ("pixels", "draws", "slots"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert torch.equal(_labels(one), _labels(other))
    assert (one.keys, one.digest, one.substituted) == (other.keys, other.digest, other.substituted)


def write_noise(folder: Path) -> Path:
    """40 samples of noise in 4 shards."""
    return write_shards(folder, [11, 9, 12, 8], members=noisy_frames)


@dataclass(frozen=True)
class Tokenizing:
    """A tokenizer for the loader out of a function of captions."""

    of: Callable[[list[str]], Tokens]

    def clean(self, caption: str) -> str:
        """Nothing but spaces says nothing."""
        return caption.strip()

    def __call__(self, captions: list[str]) -> Tokens:
        return self.of(captions)


def _numbers(captions: list[str]) -> Tokens:
    ids = torch.tensor([[int(caption.split()[1])] for caption in captions])
    return Tokens(ids, torch.ones_like(ids, dtype=torch.bool))


LAST_NUMBER = Tokenizing(_numbers)  # of "clip 12": the number
