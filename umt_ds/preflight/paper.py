"""What the UMT paper tells of its own runs, to stand beside a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from umt_ds.batch import Media

PAPER_GPUS = 32  # A100-80G


@dataclass(frozen=True)
class Published:
    """What the UMT paper tells of a run: hours on PAPER_GPUS by student, and what was shown."""

    hours: Mapping[str, int]
    samples: int
    epochs: int
    shares: Mapping[Media, float]


PAPER: Mapping[str, Published] = {
    "stage1": Published({"vit_b16": 60, "vit_l16": 90}, 658_000, 200, {"video": 1.0}),
    # the 25M corpus: 10.73 million clips among 25.68 million (table 27)
    "stage2": Published(
        {"vit_b16": 24, "vit_l16": 40}, 25_680_000, 10, {"image": 14.95 / 25.68, "video": 10.73 / 25.68}
    ),
}
