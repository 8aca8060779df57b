"""Names to towers: presets and open_clip's models, and the text half of a CLIP. The door to open_clip.

open_clip names image towers of its own, and some of timm (SigLIP, EVA02, PE), which `timm_tower.py` builds. Seen:
open_clip 3.3. Both libraries load on use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from umt_ds.errors import ConfigError, WeightsError
from umt_ds.models.alignment import unit_length
from umt_ds.models.layers import CLIP, PixelStatistics
from umt_ds.models.positions import resize_grid
from umt_ds.models.towers import ClipTower, Features, TimmModel, cannot_teach

Architecture = Mapping[str, Any]
"""An open_clip config: embed_dim, quick_gelu, vision_cfg {image_size, patch_size, width, layers}."""

# OpenAI's weights need QuickGELU: open_clip's plain "ViT-B-16" has GELU. At 196 px L/14 has 14 x 14 patches.
PRESETS: dict[str, tuple[str, int | None]] = {
    "clip_b16": ("ViT-B-16-quickgelu", None),
    "clip_l14": ("ViT-L-14-quickgelu", 196),
    "clip_l14_336": ("ViT-L-14-336-quickgelu", None),
}


def open_clip_architecture(name: str) -> tuple[Architecture, int | None] | None:
    """The config of a preset or of a model of open_clip, and the image size of the preset; None for other names."""
    import open_clip

    known, preset_size = PRESETS.get(name, (name, None))
    config: Architecture | None = open_clip.get_model_config(known)
    return None if config is None else (config, preset_size)


def open_clip_names() -> list[str]:
    """All of its names, and the presets, for a hint."""
    import open_clip

    return [*PRESETS, *open_clip.list_models()]


def statistics_of(name: str) -> PixelStatistics | None:
    """Mean and deviation with which open_clip's weights of that name were trained: CLIP's where it knows of none.

    None where weights of one name were trained with several: then the folder of the weights has to say it.
    """
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    known, _ = PRESETS.get(name, (name, None))
    found = set()
    for tag in list_pretrained_tags_by_model(known):
        config = get_pretrained_cfg(known, tag)
        if config.get("mean") is not None and config.get("std") is not None:
            found.add(PixelStatistics(tuple(config["mean"]), tuple(config["std"])))
    if not found:
        return CLIP
    return found.pop() if len(found) == 1 else None


def timm_model_of(config: Architecture, image_size: int | None, name: str) -> TimmModel | None:
    """The model of timm that is the image tower of an open_clip config; None where it is open_clip's own.

    Raises ConfigError for one with a head of open_clip's behind it.
    """
    vision = config["vision_cfg"]
    if vision.get("timm_model_name") is None:
        return None
    projection = vision.get("timm_proj", "linear")
    if projection in ("linear", "mlp"):
        raise cannot_teach(name)
    return TimmModel(
        name=vision["timm_model_name"],
        outputs=0 if projection == "none" else config["embed_dim"],
        global_pool=vision.get("timm_pool", "avg"),
        image_size=image_size or vision.get("image_size"),
    )


def build_clip_tower(
    name: str,
    config: Architecture,
    *,
    image_size: int | None,
    features: Features | None,
    statistics: PixelStatistics | None,
) -> ClipTower:
    """open_clip's own image tower, with random weights. Raises ConfigError for one that cannot teach."""
    from open_clip.model import _build_vision_tower
    from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer

    vision = dict(config["vision_cfg"])
    if image_size is not None:
        vision["image_size"] = image_size
    visual = _build_vision_tower(config["embed_dim"], vision, quick_gelu=config.get("quick_gelu", False))
    if isinstance(visual, VisionTransformer):
        plain = all(isinstance(block, ResidualAttentionBlock) for block in visual.transformer.resblocks)
        if plain and visual.attn_pool is None:
            quick = isinstance(visual.transformer.resblocks[0].mlp.gelu, QuickGELU)
            return ClipTower(visual, quick_gelu=quick, name=name, features=features, statistics=statistics)
    raise cannot_teach(name, f" at {image_size} px" if image_size else "")


def load_clip(tower: ClipTower, state: Mapping[str, Tensor]) -> None:
    """Load weights in open_clip's names strictly, positions resized to the tower's grid where theirs differs."""
    weights = dict(state)
    table = weights.get("positional_embedding")
    try:
        if table is not None:
            weights["positional_embedding"] = _resize_positions(table, tower.grid)
        tower.visual.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"the weights do not fit teacher {tower.name!r}: {_one_line(error)}",
            hint="is it the file of this model, and did it pass through weights.published.teacher_state?",
        ) from error


def _one_line(error: RuntimeError) -> str:
    """What torch says about tensors that are missing, unknown or of another shape, as a sentence and not a page."""
    return " ".join(str(error).split())[:600]


def _resize_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """CLIP's positions [1+g²,W] for another grid: bicubic, no antialias; the class row stays.

    Raises RuntimeError, as torch does for a misfit, for a table that is not one of a square of patches.
    """
    patches = grid[0] * grid[1]
    if table.dim() == 2 and len(table) == 1 + patches:
        return table
    if table.dim() != 2 or len(table) < 2 or math.isqrt(len(table) - 1) ** 2 != len(table) - 1:
        raise RuntimeError(f"positional_embedding has shape {tuple(table.shape)}, not [1 + a square, width]")
    resized = resize_grid(table[None, 1:].float(), rows=grid[0], cols=grid[1])[0]
    return torch.cat([table[:1].float(), resized])


class TextTeacher(nn.Module):
    """CLIP's frozen text tower, for those who align the projection of text with it (UMT table 16)."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> TextTeacher:
        """Stay in eval mode, whatever `mode` says."""
        return super().train(False)

    @torch.no_grad()
    def embedding(self, ids: Tensor) -> Tensor:
        """CLIP's tokens i64 [B,77] to the unit vectors that it compares with images: f32 [B,C]."""
        embedded: Tensor = self.tower(ids)
        return unit_length(embedded)


def build_text_teacher(model: str | Architecture, *, state: Mapping[str, Tensor] | None, seed: int = 0) -> TextTeacher:
    """The text tower of a CLIP by preset, open_clip name or architecture with `text_cfg`.

    state: as `weights.published.text_teacher_state` makes it; None draws random weights. Raises ConfigError for a
    model without a text tower of open_clip's own, WeightsError for a misfit.
    """
    from open_clip.model import _build_text_tower

    name, config = ("given as numbers", model) if not isinstance(model, str) else (model, None)
    if isinstance(model, str) and (found := open_clip_architecture(model)) is not None:
        config = found[0]
    if config is None or "text_cfg" not in config:
        raise ConfigError(
            f"teacher {name!r} has no text tower in open_clip",
            hint="a CLIP of open_clip's; an image tower alone has no words",
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        tower = _build_text_tower(config["embed_dim"], dict(config["text_cfg"]), config.get("quick_gelu", False))
    if state is not None:
        try:
            tower.load_state_dict(dict(state), strict=True)
        except RuntimeError as error:
            raise WeightsError(
                f"the text tower of teacher {name!r} cannot be loaded: {_one_line(error)}",
                hint="the text tower needs a whole CLIP file, in OpenAI's or open_clip's layout",
            ) from error
    return TextTeacher(tower)
