"""What the UMT paper tells of its own runs, to stand beside a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from umt_ds.batch import Media

PAPER_GPUS = 32  # A100-80G


@dataclass(frozen=True)
class Published:
    """What the UMT paper tells of a run: hours on PAPER_GPUS, and what was shown."""

    hours: int
    samples: int
    epochs: int
    shares: Mapping[Media, float]


def _stage1(hours: int) -> Published:
    return Published(hours, 658_000, 200, {"video": 1.0})


def _stage2(hours: int) -> Published:
    # the 25M corpus: 10.73 million clips among 25.68 million (table 27)
    return Published(hours, 25_680_000, 10, {"image": 14.95 / 25.68, "video": 10.73 / 25.68})


# by task.kind and the preset of the student
PAPER: Mapping[tuple[str, str | None], Published] = {
    ("stage1", "vit_b16"): _stage1(60),
    ("stage1", "vit_l16"): _stage1(90),
    ("stage2", "vit_b16"): _stage2(24),
    ("stage2", "vit_l16"): _stage2(40),
}
