"""Settings of the data: sources, frames, augmentation, cache."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from umt_ds.config.section import RUNNING, Section, refuse_backwards
from umt_ds.config.values import Count, Draw, FilePath, Part, Place, Positive, PositiveOrNone, RandAugmentSpec, Text


class FramesConfig(Section):
    """How the frames of a clip are chosen from those stored. The count is the task's.

    Source: METHOD.md, "Frames: stage 1", "Frames: stage 2", "Frames: recognition".
    """

    policy: Literal["sparse", "dense", "intervals", "kinetics_sparse"] = Field(
        "sparse",
        description="intervals: as sparse, but by the rule of stage 2; kinetics_sparse: by that of fine-tuning",
    )
    stride: Count = Field(1, description="dense only: distance between frames")

    @field_validator("stride")
    @classmethod
    def _of_dense(cls, stride: int, info: ValidationInfo) -> int:
        if stride != 1 and info.data.get("policy", "dense") != "dense":
            raise ValueError(f"it is for policy: dense, and policy is {info.data['policy']}")
        return stride


class SourceConfig(Section):
    """One folder of shards written by umt-data, or indexed by it; or tars to stream, which makes the run inexact."""

    shards: Annotated[Place | tuple[Place, ...], RUNNING] = Field(
        description="folder or URL (s3://, hf://, http://) of indexed shards; streamed: pipe:COMMAND, names that end "
        "in .tar (patterns such as {000..099}.tar too), or a list of these"
    )
    media: Literal["image", "video"] = Field("video", description="an image is a clip of one frame")
    caption: Text = Field("caption", description="field of a sample's json that holds its text, or a list of texts")
    samples: Draw | None = Field(None, gt=0, description="streamed only: how many there are, if the schedule asks")
    repeat: Positive = Field(
        1.0,
        description="draws of an epoch that a sample stands for, such as its number of captions (each draw shows one); "
        "without weights the mixture follows",
    )
    weight: PositiveOrNone | None = Field(
        None,
        description="share of the draws; default: proportional to size × repeat, one in 2^20 at least; 0: none until "
        "data.segments gives it one",
    )
    frames: FramesConfig = FramesConfig()

    @property
    def is_stream(self) -> bool:
        """Whether the tars are read from end to end, in an order that cannot be repeated."""
        return not isinstance(self.shards, str) or self.shards.startswith("pipe:") or self.shards.endswith(".tar")

    @property
    def names(self) -> tuple[str, ...]:
        """`shards`, as a list in any case."""
        return (self.shards,) if isinstance(self.shards, str) else self.shards

    @model_validator(mode="after")
    def _sizes(self) -> SourceConfig:
        if self.samples is not None and not self.is_stream:
            raise ValueError("samples is for streamed tars: the manifest of a folder says how many it holds")
        if not self.shards:
            raise ValueError("shards names nothing")
        return self


class AugmentConfig(Section):
    """What happens to the pixels of a training clip (METHOD.md, "Crops: stage 1", "Crops: stage 2")."""

    crop: Literal["multi_scale", "random_resized", "center"] = "multi_scale"
    scale: tuple[Part, Part] = Field((0.5, 1.0), description="random_resized only: part of the area that is kept")
    filter: Literal["bilinear", "bicubic"] = Field(
        "bicubic", description="random_resized only: how it is resized (stage 2 bicubic, fine-tuning bilinear)"
    )
    rand_augment: RandAugmentSpec | None = Field(
        None,
        description="RandAugment of whole frames in timm's notation, such as rand-m7-n4-mstd0.5-inc1 (magnitude, "
        "operations, deviation of the magnitude); all frames of a clip are changed alike",
    )
    flip: bool = True
    color_jitter: PositiveOrNone = 0.0
    antialias: bool = Field(
        True,
        description="where frames shrink, a pixel is the mean of all that it covers (stage 1); false: of the nearest "
        "alone, as published stage 2 and its evaluation, to the byte: a core then makes a third as many clips",
    )
    # among the numbers: a pixel may become its neighbour of 256
    on_device: Literal["nothing", "resize", "decode"] = Field(
        "nothing",
        description="what the training device does in place of data.workers: `resize` (crops come as they are stored), "
        "or `decode` too (CUDA only; nvJPEG's colours differ a little from libjpeg's)",
    )

    @model_validator(mode="after")
    def _consistent(self) -> AugmentConfig:
        for name in ("color_jitter", "rand_augment"):
            if self.on_device != "nothing" and getattr(self, name):
                raise ValueError(f"{name} is the workers' work: it needs on_device: nothing")
        refuse_backwards("scale", self.scale)
        return self

    @field_validator("scale", "filter")
    @classmethod
    def _of_random_resized(cls, value: Any, info: ValidationInfo) -> Any:
        crop = info.data.get("crop", "random_resized")
        if value != cls.model_fields[info.field_name or ""].default and crop != "random_resized":
            raise ValueError(f"it is for crop: random_resized, and crop is {crop}")
        return value


class CacheConfig(Section):
    """What is fetched of remote shards, and kept on the disk of a node for all its ranks, workers and runs."""

    folder: FilePath | None = Field(None, description="on a local disk; default: umt-cache-UID in the temporary folder")
    max_gb: PositiveOrNone = Field(10.0, description="its bound, in 1e9 bytes; runs that share a folder give the same")
    max_gap_kb: int = Field(
        256,
        ge=0,
        le=4096,
        description="frames that training draws and that lie at most so many times 1024 bytes apart come in one "
        "request, with what lies between them, which is kept too; 0: the fewest bytes, in the most requests",
    )


class DataConfig(Section):
    """Where clips come from and how they are read."""

    sources: dict[Text, SourceConfig] = Field(min_length=1)
    segments: dict[Text, dict[Text, PositiveOrNone]] = Field(
        {},
        description="changes of the mixture: by step, counted from 0, the weights that sources have from there on, "
        'such as {"30000": {webvid: 0, cc3m: 2}}; a source that is not named keeps its own',
    )
    cache: Annotated[CacheConfig, RUNNING] = CacheConfig()
    augment: AugmentConfig = AugmentConfig()
    num_sample: Count = Field(1, description="augmented views per drawn clip (repeated augmentation)")
    window: Count = Field(16, description="shards that are shuffled together")
    workers: Annotated[int, RUNNING] = Field(4, ge=0, le=1000, description="loader processes per rank")
    max_bad_rate: Annotated[Part, RUNNING] = Field(0.01, description="stop when more draws than this need a substitute")
    skip_draws: tuple[tuple[Draw, Draw], ...] = Field((), description="draw ranges [a, b) to replace, e.g. after a NaN")

    @property
    def changes(self) -> dict[int, dict[str, float]]:
        """`segments` by step, ascending."""
        return {int(step): self.segments[step] for step in sorted(self.segments, key=int)}

    @model_validator(mode="after")
    def _ranges(self) -> DataConfig:
        for skipped in self.skip_draws:
            refuse_backwards("skip_draws", skipped)
        return self
