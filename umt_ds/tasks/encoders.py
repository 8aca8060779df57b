"""The encoder that a run asks for, and the size of one in a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from torch import Tensor

from umt_ds.config.models import PositionBase, StudentConfig
from umt_ds.config.tasks.base import ClipShape, TaskSettings
from umt_ds.errors import ConfigError, WeightsError
from umt_ds.models.positions import BaseClip
from umt_ds.models.presets import StudentPreset, VitSize, vit_size
from umt_ds.models.vit import VideoViT

_PATCHES = "patch_embed.proj.weight"


def size_of(student: StudentConfig) -> VitSize:
    """By its name, or its own numbers. Raises ConfigError where its patches do not fill a frame."""
    size = _size(student)
    if student.image_size % size.patch:
        raise ConfigError(
            f"the encoder's image_size={student.image_size} is not a multiple of {size.patch}, the side of its patches",
            hint=f"in its section of task: image_size: {max(1, round(student.image_size / size.patch)) * size.patch}",
        )
    return size


def _size(student: StudentConfig) -> VitSize:
    sizes = student.sizes
    if sizes is not None:
        return VitSize(sizes.width, sizes.depth, sizes.heads, sizes.patch)
    assert student.preset != "custom", "it has sizes"
    return vit_size(student.preset)


def build_encoder(student: StudentConfig, positions: PositionBase | None) -> VideoViT:
    """The video transformer with weights drawn from torch's generator. positions: the clip whose table is stretched;
    None: the table of as many tokens as there are. Raises ConfigError for frames that cannot be cut into patches."""
    size = size_of(student)
    if positions is None:
        return VideoViT(size, drop_path=student.drop_path, checkpoint_blocks=student.checkpoint_blocks)
    return VideoViT(
        size,
        drop_path=student.drop_path,
        checkpoint_blocks=student.checkpoint_blocks,
        positions="interpolated",
        base=base_clip(positions, size),
    )


def base_clip(positions: PositionBase, size: VitSize) -> BaseClip:
    """The clip whose table of positions is stretched. Raises ConfigError for frames that cannot be cut into patches."""
    side = positions.image_size
    if side % size.patch:
        raise ConfigError(
            f"task.positions.image_size: frames of {side} px cannot be cut into patches of {size.patch}",
            hint="the clip that the weights were pretrained on: published ones 224",
        )
    return BaseClip(positions.frames, side)


def check_size(encoder: Mapping[str, Tensor], own: VitSize, *, setting: str) -> None:
    """Raises WeightsError for an encoder of another width, depth or patch than that of the run, with its preset.

    encoder: in the keys of `VideoViT`. setting: the section of the run that says the size.
    """
    kernel = tuple(encoder[_PATCHES].shape) if _PATCHES in encoder else ()
    width = (*kernel, 0)[0]
    depth = len({name.split(".")[1] for name in encoder if name.startswith("blocks.")})
    if (width, depth) != (own.width, own.depth):
        sizes = {name: vit_size(name) for name in get_args(StudentPreset)}
        fits = next((name for name, size in sizes.items() if (size.width, size.depth) == (width, depth)), None)
        raise WeightsError(
            f"its encoder has {depth} blocks of width {width}, that of the run {own.depth} of width {own.width}",
            hint=f"{setting}.preset={fits}, or other weights" if fits else "weights of the size that the run has",
        )
    if len(kernel) == 5 and kernel[2] == 1 and kernel[3:] != (own.patch, own.patch):  # of two frames: `load_strict`
        raise WeightsError(
            f"its encoder has patches of {kernel[3]} x {kernel[4]} px, that of the run of {own.patch} x {own.patch} px",
            hint=f"{setting}.sizes with its patch, or weights of the size that the run has",
        )


def told_positions(trained_on: ClipShape | None, settings: TaskSettings) -> str:
    """What becomes of positions where an encoder goes on with clips of another shape than it was trained on; nothing
    where the shape is the same, or nobody wrote it down.

    Source: METHOD.md, "Positions".
    """
    own, base = settings.clip_shape, settings.positions_of
    if trained_on is None:
        return ""
    if settings.stretches_positions and trained_on != base:
        return (
            f"it was trained with the positions of {_told(trained_on)}, and those of {_told(base)} are stretched: "
            f"task.positions.frames={trained_on.frames} task.positions.image_size={trained_on.side} are theirs"
        )
    if trained_on == own:
        return ""
    if settings.stretches_positions:
        return f"positions of {_told(base)} are stretched to {_told(own)} (task.positions)"
    if trained_on.side != own.side:
        places = "a number stands for another place of the picture than it did"
    elif own.frames > trained_on.frames:
        places = f"those of the first {trained_on.frames} frames are the same, those after them new to it"
    else:
        places = "they are those of its first frames"
    return f"positions are computed anew for {_told(own)}; it was trained with those of {_told(trained_on)}: {places}"


def _told(clip: ClipShape) -> str:
    return f"{clip.frames} frame(s) of {clip.side} px"
