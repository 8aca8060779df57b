"""What the folder of a model says of the pixels it was trained with: mean and deviation of the channels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from umt_ds.errors import WeightsError
from umt_ds.models.layers import PixelStatistics
from umt_ds.weights.folder import WEIGHT_FILES, folder_of
from umt_ds.weights.sniff import read_json

# File, the entry in it that describes pixels (none: the file itself), and what it calls mean and deviation.
_PLACES = (
    ("open_clip_config.json", "preprocess_cfg", "mean", "std"),
    ("preprocessor_config.json", None, "image_mean", "image_std"),  # Hugging Face's
    ("config.json", "pretrained_cfg", "mean", "std"),  # timm's
)


def pixels_of_folder(weights: Path) -> PixelStatistics | None:
    """Mean and deviation that open_clip's, Hugging Face's or timm's files beside the weights say; None where none does.

    A weight file of another name is taken by itself: what lies beside it may be another model's. Raises WeightsError
    for an entry that is not three numbers each.
    """
    if weights.name not in WEIGHT_FILES and not os.path.isdir(weights):
        return None
    folder = folder_of(weights)
    for name, entry, mean, std in _PLACES:
        if not os.path.isfile(folder / name):
            continue
        content: Mapping[str, Any] = read_json(folder / name)
        inside = content.get(entry) if entry else content
        if isinstance(inside, dict) and mean in inside and std in inside:
            return PixelStatistics(*(_three(inside[key], folder / name, key) for key in (mean, std)))
    return None


def _three(value: object, path: Path, key: str) -> tuple[float, float, float]:
    if isinstance(value, list) and len(value) == 3 and all(isinstance(one, int | float) for one in value):
        red, green, blue = (float(one) for one in value)
        return red, green, blue
    raise WeightsError(
        f"{key} in {path} is not three numbers", hint="copy the file again, or choose other pixels than own"
    )
