"""timm's image towers in small: the same classes and options as the models of their names, with few numbers.

Importing this makes them known to timm, as `tiny_siglip` and so on: 32 px, patches of 8, six blocks of width 32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.models import register_model
from torch import Tensor

SIZES: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 6, "num_heads": 2}

# tiny name → the model of timm whose options it has, and further numbers
TOWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny_siglip": ("vit_base_patch16_siglip_224", {}),
    "tiny_siglip_gap": ("vit_base_patch16_siglip_gap_224", {}),
    "tiny_dinov2": ("vit_base_patch14_dinov2", {}),
    "tiny_dinov2_reg": ("vit_base_patch14_reg4_dinov2", {}),
    "tiny_dinov2_giant": ("vit_giant_patch14_reg4_dinov2", {}),
    "tiny_dinov3": ("vit_base_patch16_dinov3", {}),
    "tiny_dinov3_qkvb": ("vit_base_patch16_dinov3_qkvb", {}),
    "tiny_dinov3_plus": ("vit_huge_plus_patch16_dinov3", {}),
    "tiny_aimv2": ("aimv2_large_patch14_224", {}),
    "tiny_beitv2": ("beitv2_base_patch16_224", {}),
    "tiny_beit3": ("beit3_base_patch16_224", {}),
    "tiny_eva": ("eva_giant_patch14_224", {}),
    "tiny_eva02": ("eva02_base_patch14_224", {}),
    "tiny_eva02_clip": ("eva02_base_patch16_clip_224", {}),
    "tiny_eva02_enormous": ("eva02_enormous_patch14_clip_224", {}),
    "tiny_pe_core": ("vit_pe_core_base_patch16_224", {"attn_pool_num_heads": 2}),
    "tiny_pe_core_big": ("vit_pe_core_gigantic_patch14_448", {"attn_pool_num_heads": 2}),
    "tiny_pe_spatial": ("vit_pe_spatial_base_patch16_512", {}),
}
# open_clip's names of towers that are timm's: what a config of open_clip says
OPEN_CLIP: dict[str, dict[str, Any]] = {
    "tiny_eva02_clip": {"timm_model_name": "tiny_eva02_clip", "timm_pool": "token", "timm_proj": None},
    "tiny_siglip": {"timm_model_name": "tiny_siglip", "timm_pool": "map", "timm_proj": "none"},
    "tiny_pe_core": {"timm_model_name": "tiny_pe_core", "timm_pool": "map", "timm_proj": None},
}


def open_clip_config(name: str) -> dict[str, Any]:
    """A model of open_clip with that tower, embeddings of 24 numbers."""
    return {"embed_dim": 24, "vision_cfg": {**OPEN_CLIP[name], "image_size": 32}}


def randomised(model: Any) -> dict[str, Tensor]:
    """A state in which nothing is at its neutral start: scales of layers, biases, tables, tokens."""
    return {name: value + 0.2 * torch.randn_like(value) for name, value in model.state_dict().items()}


def _register(name: str, original: str, numbers: dict[str, Any]) -> Callable[..., Any]:
    def entry(pretrained: bool = False, **options: Any) -> Any:
        return timm.create_model(original, pretrained=False, **{**SIZES, **numbers, **options})

    entry.__name__, entry.__module__ = name, __name__
    setattr(sys.modules[__name__], name, entry)
    return register_model(entry)


__all__: list[str] = []
for _name, (_original, _numbers) in TOWERS.items():
    _register(_name, _original, _numbers)
