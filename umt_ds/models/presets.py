"""The sizes of the student by name. The width of its decoders is not here: it comes from the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, assert_never

StudentPreset = Literal["pocket", "tiny", "vit_b16", "vit_l16"]


@dataclass(frozen=True)
class VitSize:
    """The numbers that fix a vision transformer. `patch` is the side of a patch in pixels; one frame deep."""

    width: int
    depth: int
    heads: int
    patch: int
    mlp_ratio: float = 4.0


def vit_size(preset: StudentPreset) -> VitSize:
    """The size of a named student: B and L of the UMT paper, ViT-Ti/16 for trying things out,
    and a pocket size for the demo's 64-pixel frames."""
    match preset:
        case "pocket":
            return VitSize(width=128, depth=6, heads=4, patch=8)
        case "tiny":
            return VitSize(width=192, depth=12, heads=3, patch=16)
        case "vit_b16":
            return VitSize(width=768, depth=12, heads=12, patch=16)
        case "vit_l16":
            return VitSize(width=1024, depth=24, heads=16, patch=16)
        case _:
            assert_never(preset)
