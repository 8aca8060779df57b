"""What a plan takes the loader to do where the shards are not here to be measured."""

from __future__ import annotations

from collections.abc import Mapping

from umt_ds.batch import Media
from umt_ds.bench.rate import LoaderRate
from umt_ds.config.run import RunConfig

# what `measure_loader` found on real clips as umt-data stores them (short side 240 to 256, JPEG q90) with EPYC cores:
# 171 clips of 8 frames a core-second, 21 to 26 kB a frame; less what a worker costs (`umt bench loader`: 150 with one)
_FRAMES_PER_CORE_S, FRAME_BYTES = 1200, 22_000
# what is left of that without antialias, whose sums are exact: by filter, on frames of 340 x 256
_PLAIN_PACE = {"bilinear": 0.6, "bicubic": 0.3}
# seconds of a frame of each further view, and of each frame that RandAugment changes (`umt bench loader --fine-tuning`)
_VIEW_S, _RAND_AUGMENT_S = 0.4e-3, 1.6e-3


def assumed_loader(config: RunConfig, shares: Mapping[Media, float]) -> LoaderRate:
    """A core's rate on clips of the run, of which each medium has its share."""
    of_clip, _ = config.task.clip_shape
    frames = sum(share * (1 if medium == "image" else of_clip) for medium, share in shares.items())
    return LoaderRate(assumed_pace(config) / frames, FRAME_BYTES * frames, "assumed")


def assumed_pace(config: RunConfig) -> float:
    """Stored frames a core-second, in all views of them."""
    augment, views = config.data.augment, config.data.num_sample
    is_plain = not augment.antialias and augment.on_device == "nothing"
    filter = augment.filter if augment.crop == "random_resized" else "bilinear"
    seconds = 1 / (_FRAMES_PER_CORE_S * (_PLAIN_PACE[filter] if is_plain else 1))
    if augment.on_device == "nothing":
        seconds += (views - 1) * _VIEW_S
    if augment.rand_augment is not None:
        seconds += views * _RAND_AUGMENT_S
    return 1 / seconds
