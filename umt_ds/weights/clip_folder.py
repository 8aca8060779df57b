"""What the folder of a CLIP says of it that no tensor shows: its activation, and how many heads it has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from umt_ds.errors import WeightsError
from umt_ds.weights.folder import WEIGHT_FILES, folder_of
from umt_ds.weights.sniff import read_json


def differences(weights: Path, *, quick_gelu: bool, heads: int) -> str:
    """What config.json or open_clip_config.json beside the weights say of the image tower, other than it is run here;
    empty where they agree or are not there."""
    if weights.name not in WEIGHT_FILES and not os.path.isdir(weights):
        return ""  # a file of its own: what lies beside it may be another model's
    try:
        return _differences(folder_of(weights), quick_gelu=quick_gelu, heads=heads)
    except WeightsError as error:
        return error.what


def _differences(folder: Path, *, quick_gelu: bool, heads: int) -> str:
    here = {"hidden_act": "quick_gelu" if quick_gelu else "gelu", "num_attention_heads": heads, "layer_norm_eps": 1e-5}
    there = _hugging_face(_config(folder / "config.json"))
    told = [
        f"config.json says {key}={there[key]!r}, not {value!r}"
        for key, value in here.items()
        if there.get(key, value) != value
    ]
    theirs = _open_clip(_config(folder / "open_clip_config.json"))
    if theirs is not None and theirs is not quick_gelu:
        told.append(f"open_clip_config.json says quick_gelu={theirs}, not {quick_gelu}")
    return "; ".join(told)[:300]


def _config(path: Path) -> Mapping[str, Any]:
    return read_json(path) if os.path.isfile(path) else {}


def _hugging_face(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What it says of the image tower."""
    vision = {"clip": config.get("vision_config"), "clip_vision_model": config}
    kind = config.get("model_type")
    found = vision.get(kind) if isinstance(kind, str) else None
    return found if isinstance(found, dict) else {}


def _open_clip(config: Mapping[str, Any]) -> bool | None:
    """Whether its towers have QuickGELU; None where it does not describe one of open_clip's own."""
    model = config.get("model_cfg")
    vision = model.get("vision_cfg") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(vision, dict) or "timm_model_name" in vision:
        return None
    return model.get("quick_gelu", False) is True
