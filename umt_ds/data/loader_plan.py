"""What a loader is told: its sources, and how draws become batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from umt_ds.batch import Media
from umt_ds.data.on_device import OnDevice
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.order.media import Mode
from umt_ds.data.pixels.augment import NO_JITTER, ColorJitter, CropKind, Filter
from umt_ds.data.pixels.rand_augment import RandAugment
from umt_ds.data.shards.stream import Tars
from umt_ds.errors import ConfigError


@dataclass(frozen=True)
class SourceSpec:
    """One folder of shards, or a stream, in the mixture. `weight`: share of the draws, 0 where a later segment alone
    draws from it; None: its samples × `repeat`."""

    name: str
    shards: Path | Tars
    frames: FramePolicy
    weight: float | None = None
    repeat: float = 1.0
    media: Media = "video"
    caption: str = "caption"  # field of the samples' json that holds their text


@dataclass(frozen=True)
class LoaderPlan:
    """How draws become batches. The first block says what the run sees, the second only how it runs."""

    seed: int
    global_draws: int  # G: draws per optimiser step, over all ranks
    image_side: int
    num_sample: int = 1  # views of each drawn clip (repeated augmentation)
    crop: CropKind = "multi_scale"
    scale: tuple[float, float] = (0.5, 1.0)  # random_resized: part of the area that is kept
    filter: Filter = "bicubic"  # random_resized: how that part is resized
    rand_augment: RandAugment | None = None
    flip: bool = True
    jitter: ColorJitter = NO_JITTER
    antialias: bool = True
    on_device: OnDevice = "nothing"
    window: int = 16  # shards shuffled together
    media_mode: Mode = "alternate"  # sources of images and of clips: one medium a step, or both in each micro-batch
    pack: int = 16  # packed: draws that hold whole shares of both; divides micro
    # by step: the weights of sources that change there, by name (`order/segments.py`)
    segments: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    num_classes: int | None = None  # labels are of 0 … num_classes-1, and each sample has one; None: whatever they say
    skip_draws: tuple[tuple[int, int], ...] = ()  # ranges [a, b) that show a substitute instead of their sample

    micro: int = 1  # b: draws per micro-batch and rank
    accumulation: int = 1
    rank: int = 0
    world: int = 1
    num_workers: int = 0
    prefetch: int = 2  # micro-batches each worker builds ahead
    max_bad_rate: float = 0.01
    stall_limit_s: float = 900.0
    max_gap: int | None = None  # bytes between what one request to a store fetches; None: `fetch.REQUEST_COSTS`

    def __post_init__(self) -> None:
        product = self.micro * self.accumulation * self.world
        if self.global_draws != product or product < 1:
            raise ConfigError(
                f"global_draws={self.global_draws} is not micro × accumulation × world = "
                f"{self.micro} × {self.accumulation} × {self.world}"
            )
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"rank {self.rank} is not one of {self.world}")
        if min(self.image_side, self.num_sample, self.window, self.prefetch) < 1 or self.num_workers < 0:
            raise ConfigError(f"{self}: image_side, num_sample, window and prefetch must be at least 1")
        for_workers = self.jitter != NO_JITTER or self.rand_augment is not None
        assert self.on_device == "nothing" or not for_workers, "colours and RandAugment are for the workers"
        if bad := [span for span in self.skip_draws if not 0 <= span[0] < span[1]]:
            raise ConfigError(f"skip_draws {bad}: each range is [a, b) with 0 ≤ a < b")

    def first_draw(self, number: int) -> int:
        """The first draw of this rank's micro-batch `number`, counted from step 0."""
        step, turn = divmod(number, self.accumulation)
        return step * self.global_draws + (turn * self.world + self.rank) * self.micro

    def skips(self, draw: int) -> bool:
        return any(a <= draw < b for a, b in self.skip_draws)


def frames_of_media(sources: Sequence[SourceSpec]) -> dict[Media, int]:
    """Frames of what each medium shows. Raises ConfigError for sources that cannot be shown together."""
    if not sources:
        raise ConfigError("data.sources is empty", hint="name at least one folder of shards")
    if len({spec.name for spec in sources}) < len(sources):
        raise ConfigError(f"two sources have the same name: {[spec.name for spec in sources]}")
    frames: dict[Media, int] = {}
    for spec in sources:
        if frames.setdefault(spec.media, spec.frames.count) != spec.frames.count:
            raise ConfigError(f"sources of one medium must have the same number of frames: {spec.name} has not")
    if len({spec.weight is None for spec in sources}) > 1:
        raise ConfigError("give every source a weight, or none (then they weigh as many samples as they hold)")
    return frames
