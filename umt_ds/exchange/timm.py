"""A classifier of clips as timm's `VisionTransformer`, which sees the frames of a clip one above the other.

Patches are one frame deep, and attention joins all tokens of a clip. So a picture of T·H x W pixels has the same tokens
in the same order as a clip of T frames of H x W, and the model is a plain ViT without a class token, whose position
table holds that of the clip. The bias of the keys, which the model here does not have, is zero.

The folder is one that timm reads (`local-dir:`), and so does transformers, as its TimmWrapper.

Shapes: B clips, T frames, H x W pixels, N tokens of a clip, D width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from umt_ds.exchange.compare import Outputs, Probe
from umt_ds.exchange.source import Source
from umt_ds.exchange.targets import Options, Plan, Written
from umt_ds.exchange.usage import timm_usage
from umt_ds.models.classifier import VideoClassifier
from umt_ds.models.layers import IMAGENET, normalise

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Every number that differs from this model of timm's registry is said in `model_args`.
_REGISTERED = "vit_base_patch16_224"


def plan(source: Source, options: Options) -> Plan:
    """See `targets.Target`."""
    notes = [] if source.classes else ["Nobody wrote down the names of the classes: they are called by their numbers."]
    return Plan({CONFIG: "sizes, class names and pixel statistics", WEIGHTS: "weights under timm's names"}, notes)


def write(source: Source, folder: Path, options: Options) -> Written:
    """See `targets.Target`."""
    write_folder(source, folder)
    frames, side = source.clip_shape
    return Written(timm_usage(frames=frames, side=side), plan(source, options).notes)


def run(folder: Path, source: Source, probe: Probe, options: Options) -> Outputs:
    """See `targets.Target`."""
    import timm

    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        tokens = model.forward_features(stacked(probe.pixels))
        return {"features": model.forward_head(tokens, pre_logits=True), "logits": model.forward_head(tokens)}


def _classifier_in(source: Source) -> VideoClassifier:
    module = source.module
    assert isinstance(module, VideoClassifier), type(module)
    return module


def write_folder(source: Source, folder: Path) -> None:
    """`config.json` and `model.safetensors`, as timm and transformers read them."""
    classifier, (frames, side) = _classifier_in(source), source.clip_shape
    state = timm_state(classifier, frames=frames, side=side)
    config = timm_config(classifier, frames=frames, side=side, classes=source.classes)
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def timm_state(classifier: VideoClassifier, *, frames: int, side: int) -> dict[str, Tensor]:
    """The weights in the keys of timm's `VisionTransformer`, for clips of `frames` frames of side x side pixels."""
    state = dict(classifier.state_dict())
    for index in range(classifier.size.depth):
        attention = f"blocks.{index}.attn"
        query, value = state.pop(f"{attention}.q_bias"), state.pop(f"{attention}.v_bias")
        state[f"{attention}.qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].squeeze(2)
    clip = torch.empty(1, frames, side, side, 3, dtype=torch.uint8)
    state["pos_embed"] = classifier.position_table(clip)[None]  # [1,N,D]
    return {name: value.contiguous() for name, value in state.items()}


def timm_config(classifier: VideoClassifier, *, frames: int, side: int, classes: tuple[str, ...]) -> Mapping[str, Any]:
    """What timm writes beside weights, and reads: the registered architecture, and what is different from it."""
    size, count = classifier.size, classifier.head.out_features
    height = frames * side
    return {
        "architecture": _REGISTERED,
        "num_classes": count,
        "num_features": size.width,
        "global_pool": "avg",
        # transformers would take ImageNet's for a head of 1,000 classes without names
        "label_names": list(classes) or [f"class {number}" for number in range(count)],
        "model_args": {
            "img_size": [height, side],
            "patch_size": size.patch,
            "embed_dim": size.width,
            "depth": size.depth,
            "num_heads": size.heads,
            "mlp_ratio": size.mlp_ratio,
            "class_token": False,
            "global_pool": "avg",
        },
        "pretrained_cfg": {
            "input_size": [3, height, side],
            "fixed_input_size": True,
            "pool_size": None,
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "mean": list(IMAGENET.mean),
            "std": list(IMAGENET.std),
            "num_classes": count,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def stacked(pixels: Tensor) -> Tensor:
    """Clips u8 [B,T,H,W,3] as normalised pictures f32 [B,3,T·H,W], their frames one above the other."""
    return normalise(pixels, IMAGENET).flatten(1, 2).permute(0, 3, 1, 2)
