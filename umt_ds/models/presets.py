"""The sizes of the student and of BERT by name. The width of the decoders is not here: it comes from the teacher."""

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


@dataclass(frozen=True)
class BertSize:
    """The numbers that fix a BERT. `hidden`: width inside the feed-forward parts; `max_tokens`: positions it knows."""

    width: int
    layers: int
    heads: int
    hidden: int
    vocab_size: int = 30522
    max_tokens: int = 512


def bert_size(preset: Literal["bert_base", "bert_large"]) -> BertSize:
    """The size of a named BERT, with the uncased vocabulary."""
    match preset:
        case "bert_base":
            return BertSize(width=768, layers=12, heads=12, hidden=3072)
        case "bert_large":
            return BertSize(width=1024, layers=24, heads=16, hidden=4096)
        case _:
            assert_never(preset)
