"""The frozen teacher: a CLIP image tower that looks at each frame and says what matters and what it means.

One look takes two steps. `Teacher.attend(pixels)` runs all blocks but the last and returns the class token's
attention, from which the mask is drawn. `TeacherPass.targets(keep)` then finishes for the kept tokens alone:
the same numbers as a full pass, with less work. Several masks can share one look.

This is the door to open_clip and, for SigLIP, to timm (seen: open_clip 3.3, timm 1.0). Both load on use.

Shapes: B clips, T frames, F = B·T frames in a row, S patches per frame, P prefix tokens (a class token: 1),
V kept tokens per clip, v kept tokens per frame, W width inside, C width of the output, K aligned layers.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umt_ds.errors import ConfigError, WeightsError
from umt_ds.models.alignment import FeatureNorm, unit_length
from umt_ds.models.layers import CLIP, IMAGENET, normalise
from umt_ds.models.positions import resize_grid
from umt_ds.models.presets import VitSize
from umt_ds.models.vit import tap_layers

TeacherPixels = Literal["imagenet", "clip"]
Architecture = Mapping[str, Any]
"""An open_clip config: embed_dim, quick_gelu, vision_cfg {image_size, patch_size, width, layers}."""

# OpenAI's weights need QuickGELU: open_clip's plain "ViT-B-16" has GELU. At 196 px L/14 has 14 x 14 patches.
_PRESETS: dict[str, tuple[str, int | None]] = {
    "clip_b16": ("ViT-B-16-quickgelu", None),
    "clip_l14": ("ViT-L-14-quickgelu", 196),
    "clip_l14_336": ("ViT-L-14-336-quickgelu", None),
}


class ClipTower(nn.Module):
    """open_clip's VisionTransformer (OpenAI CLIP, LAION, DataComp, DFN, MetaCLIP, CLIPA, …), opened up."""

    prefix_tokens = 1

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual
        blocks = visual.transformer.resblocks
        mlp_ratio = blocks[0].mlp.c_fc.out_features / visual.transformer.width
        self.size = VitSize(
            width=visual.transformer.width,
            depth=len(blocks),
            heads=blocks[0].attn.num_heads,
            patch=visual.patch_size[0],
            mlp_ratio=mlp_ratio,
        )
        self.image_size: tuple[int, int] = visual.image_size
        self.grid: tuple[int, int] = visual.grid_size
        self.out_width: int = visual.proj.shape[1]
        # Towers that average the patches never read their class token: its attention means nothing.
        self.has_class_token: bool = visual.pool_type == "tok"
        self.blocks: Any = blocks

    def embed(self, images: Tensor) -> Tensor:
        """Images [F,3,H,W] to the input of the first block [F,1+S,W]."""
        visual = self.visual
        patches = visual.conv1(images).flatten(2).transpose(1, 2)  # [F,S,W]
        class_token = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = torch.cat([class_token, patches], dim=1)
        out: Tensor = visual.ln_pre(tokens + visual.positional_embedding.to(tokens.dtype))
        return out

    def class_attention(self, x: Tensor) -> Tensor:
        """The class token's attention to each patch in the last block, whose input is x [F,1+S,W]: f32 [F,S].

        Softmax over the patches and the class token, mean over the heads, class column dropped: rows sum to
        less than 1, as published. Logits and softmax are fp32 under any autocast: product and sum, no matmul.
        """
        block = self.blocks[-1]
        query_weight, key_weight, _ = block.attn.in_proj_weight.chunk(3)
        query_bias, key_bias, _ = block.attn.in_proj_bias.chunk(3)
        normed = block.ln_1(x)
        split = (self.size.heads, -1)
        query = torch.unflatten(F.linear(normed[:, :1], query_weight, query_bias), -1, split)
        keys = torch.unflatten(F.linear(normed, key_weight, key_bias), -1, split)  # [F,1+S,heads,W/heads]
        logits = (query.float() * keys).sum(dim=-1) / math.sqrt(keys.shape[-1])  # [F,1+S,heads]
        return logits.softmax(dim=1).mean(dim=-1)[:, 1:]

    def last_block(self, x: Tensor, rows: Tensor | None) -> Tensor:
        """The last block's output for all tokens of x [F,P+S,W], or for `rows` i64 [F,v] only: [F,v,W]."""
        block = self.blocks[-1]
        if rows is None:
            whole: Tensor = block(x)
            return whole
        frame = torch.arange(len(x), device=x.device)[:, None]
        normed = block.ln_1(x)
        attended = block.attention(q_x=normed[frame, rows], k_x=normed, v_x=normed)
        kept = x[frame, rows] + block.ls_1(attended)
        out: Tensor = kept + block.ls_2(block.mlp(block.ln_2(kept)))
        return out

    def project(self, x: Tensor) -> Tensor:
        """Block outputs [..., W] into the space shared with text [..., C]."""
        out: Tensor = self.visual.ln_post(x) @ self.visual.proj
        return out


class SiglipTower(nn.Module):
    """A timm VisionTransformer without class token or projection (SigLIP): normed block outputs."""

    prefix_tokens = 0
    has_class_token = False

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual
        trunk = visual.trunk
        self.size = VitSize(
            width=trunk.embed_dim,
            depth=len(trunk.blocks),
            heads=trunk.blocks[0].attn.num_heads,
            patch=trunk.patch_embed.patch_size[0],
            mlp_ratio=trunk.blocks[0].mlp.fc1.out_features / trunk.embed_dim,
        )
        self.image_size: tuple[int, int] = trunk.patch_embed.img_size
        self.grid: tuple[int, int] = trunk.patch_embed.grid_size
        self.out_width: int = trunk.embed_dim
        self.blocks: Any = trunk.blocks

    def embed(self, images: Tensor) -> Tensor:
        """Images [F,3,H,W] to the input of the first block [F,S,W]."""
        trunk = self.visual.trunk
        out: Tensor = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(images)))
        return out

    def class_attention(self, x: Tensor) -> Tensor:
        raise AssertionError("asked a tower without class token for its attention")

    def last_block(self, x: Tensor, rows: Tensor | None) -> Tensor:
        """The last block's output for all tokens of x [F,S,W], or for `rows` i64 [F,v] only: [F,v,W]."""
        out: Tensor = self.blocks[-1](x)
        return out if rows is None else out[torch.arange(len(x), device=x.device)[:, None], rows]

    def project(self, x: Tensor) -> Tensor:
        """Block outputs [..., W], normed."""
        out: Tensor = self.visual.trunk.norm(x)
        return out


class Teacher(nn.Module):
    """A frozen tower with the rule of which layers to align. Never trains: `train()` leaves it in eval mode.

    pixels: whose mean and deviation are applied to uint8 clips; all published UMT weights were made with
    ImageNet's, although CLIP was trained with its own. norm: "l2" makes each target a unit vector.
    """

    def __init__(
        self,
        tower: ClipTower | SiglipTower,
        *,
        layers: int = 6,
        interval: float = 1.0,
        norm: FeatureNorm = "l2",
        pixels: TeacherPixels = "imagenet",
    ) -> None:
        super().__init__()
        self.tower = tower
        self.taps = tap_layers(tower.size.depth, layers, interval)
        self.norm: FeatureNorm = norm
        self.pixels: TeacherPixels = pixels
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        """Stay in eval mode, whatever `mode` says."""
        return super().train(False)

    @property
    def size(self) -> VitSize:
        """Width, depth, heads and patch of the tower."""
        return self.tower.size

    @property
    def grid(self) -> tuple[int, int]:
        """Patches per column and row of a frame; the student's must be the same."""
        return self.tower.grid

    @property
    def out_width(self) -> int:
        """C, the width of the targets."""
        return self.tower.out_width

    @property
    def has_class_token(self) -> bool:
        """Whether there is class-token attention to draw semantic masks from."""
        return self.tower.has_class_token

    @torch.no_grad()
    def attend(self, pixels: Tensor) -> TeacherPass:
        """Look at every frame, up to the last block.

        pixels: uint8 [B,T,H,W,3], normalised here, or float [B,3,T,H,W], already normalised. Frames of
        another size than the tower's are resized after that: bicubic, no antialias (SPEC 2).
        """
        images = self._images(pixels)  # [F,3,H,W]
        x = self.tower.embed(images)
        states = []
        for index, block in enumerate(self.tower.blocks[:-1]):
            x = block(x)
            if index in self.taps:
                states.append(x)
        clips = len(pixels)
        attention = None
        if self.has_class_token:
            attention = torch.unflatten(self.tower.class_attention(x), 0, (clips, -1))  # [B,T,S]
        return TeacherPass(teacher=self, clips=clips, states=tuple(states), before_last=x, attention=attention)

    def _images(self, pixels: Tensor) -> Tensor:
        """Clips as normalised frames of the tower's size, in the dtype of its weights: [F,3,H,W]."""
        if pixels.dtype == torch.uint8:
            statistics = IMAGENET if self.pixels == "imagenet" else CLIP
            frames = normalise(pixels, statistics).flatten(0, 1).permute(0, 3, 1, 2)
        else:
            frames = pixels.transpose(1, 2).flatten(0, 1)
        if tuple(frames.shape[-2:]) != tuple(self.tower.image_size):
            frames = F.interpolate(
                frames, size=self.tower.image_size, mode="bicubic", align_corners=False, antialias=False
            )
        return frames.to(next(self.parameters()).dtype)


@dataclass(frozen=True)
class TeacherPass:
    """A look at a batch of clips, without its end.

    attention: f32 [B,T,S], the class token's in the last block; None for a tower without class token.
    states: outputs of the tapped blocks but the last, [F,P+S,W] each. before_last: the last block's input.
    """

    teacher: Teacher
    clips: int
    states: tuple[Tensor, ...]
    before_last: Tensor
    attention: Tensor | None

    @torch.no_grad()
    def targets(self, keep: Tensor, *, equal_frames: bool = False) -> Tensor:
        """What the student should say about the kept tokens: f32 [K,B,V,C], layers ascending.

        keep: i64 [B,V], sorted. equal_frames: promises that every frame keeps as many tokens
        (`MaskPlan.equal_frames`); the last block then runs on the kept tokens alone, with the same result.
        """
        tower = self.teacher.tower
        patches = self.before_last.shape[1] - tower.prefix_tokens
        kept = [self._take(state, keep) for state in self.states]
        if equal_frames:
            rows = (keep % patches).reshape(len(self.before_last), -1) + tower.prefix_tokens  # [F,v]
            last = tower.last_block(self.before_last, rows).reshape(*keep.shape, -1)
        else:
            last = self._take(tower.last_block(self.before_last, None), keep)
        features = tower.project(torch.stack([*kept, last]))  # [K,B,V,C]
        return unit_length(features) if self.teacher.norm == "l2" else features.float()

    def _take(self, state: Tensor, keep: Tensor) -> Tensor:
        """The kept tokens of a block output [F,P+S,W], prefix tokens stepped over: [B,V,W]."""
        prefix = self.teacher.tower.prefix_tokens
        patches = state.shape[1] - prefix
        rows = keep + prefix * (keep // patches + 1)  # place among T·(P+S) tokens of the clip
        clip = torch.arange(self.clips, device=keep.device)[:, None]
        return state.reshape(self.clips, -1, state.shape[-1])[clip, rows]


def build_teacher(
    model: str | Architecture,
    *,
    layers: int = 6,
    interval: float = 1.0,
    norm: FeatureNorm = "l2",
    pixels: TeacherPixels = "imagenet",
    image_size: int | None = None,
    state: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Teacher:
    """A teacher by preset ("clip_b16", "clip_l14", "clip_l14_336"), open_clip model name, or architecture.

    image_size: the side it looks at, where not its own (positions are resized bicubic, without antialias).
    state: weights in open_clip's vision-tower keys (`weights.published.teacher_state` makes them); None draws
    random ones from `seed`. Raises ConfigError for a model that cannot teach, WeightsError for a misfit.
    """
    config, image_size = _architecture(model, image_size)
    name = model if isinstance(model, str) else "given as numbers"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        tower = _build_tower(name, config, image_size)
    if state is not None:
        _load(tower, state, name)
    return Teacher(tower, layers=layers, interval=interval, norm=norm, pixels=pixels)


def _architecture(model: str | Architecture, image_size: int | None) -> tuple[Architecture, int | None]:
    """The open_clip config of a preset, a name or itself, and the image size to use, None for its own."""
    if not isinstance(model, str):
        return model, image_size
    import open_clip

    name, preset_size = _PRESETS.get(model, (model, None))
    config: Architecture | None = open_clip.get_model_config(name)
    if config is None:
        known = [*_PRESETS, *open_clip.list_models()]
        near = difflib.get_close_matches(model, known, n=3, cutoff=0.4)
        raise ConfigError(f"no teacher is called {model!r}", hint=f"nearest: {', '.join(near or _PRESETS)}")
    return config, image_size or preset_size


def _build_tower(name: str, config: Architecture, image_size: int | None) -> ClipTower | SiglipTower:
    """The image tower alone, with random weights; open_clip's own builder reads the many keys of a config."""
    from open_clip.model import _build_vision_tower
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
    from timm.models.vision_transformer import VisionTransformer as TimmTransformer

    vision = dict(config["vision_cfg"])
    is_timm = vision.get("timm_model_name") is not None
    if image_size is not None and not is_timm:  # timm's models fix the size by name
        vision["image_size"] = image_size
    visual = _build_vision_tower(config["embed_dim"], vision, quick_gelu=config.get("quick_gelu", False))
    if isinstance(visual, VisionTransformer):
        plain = all(isinstance(block, ResidualAttentionBlock) for block in visual.transformer.resblocks)
        if plain and visual.attn_pool is None:
            return ClipTower(visual)
    if isinstance(visual, TimmModel) and isinstance(visual.trunk, TimmTransformer):
        bare = visual.trunk.num_prefix_tokens == 0 and len(visual.head) == 0
        if bare and image_size in (None, visual.trunk.patch_embed.img_size[0]):
            return SiglipTower(visual)
    size = f" at {image_size} px" if image_size else ""
    raise ConfigError(
        f"teacher {name!r}{size} does not give one feature per patch that this project can read",
        hint="use clip_b16, clip_l14, any open_clip ViT without attention pooling, or SigLIP at its own size",
    )


def _load(tower: ClipTower | SiglipTower, state: Mapping[str, Tensor], name: str) -> None:
    """Load weights strictly, positions resized to the tower's grid where theirs differs."""
    weights = dict(state)
    table = weights.get("positional_embedding")
    try:
        if table is not None:  # timm's towers call theirs otherwise, and keep their size
            weights["positional_embedding"] = _resize_positions(table, tower.grid)
        tower.visual.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"the weights do not fit teacher {name!r}: {str(error)[:600]}",
            hint="is it the file of this model, and did it pass through weights.published.teacher_state?",
        ) from error


def _resize_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """CLIP's positions [1+g²,W] for another grid: bicubic, no antialias; the class row stays."""
    class_row, patches = table[:1].float(), table[1:].float()
    if len(patches) == grid[0] * grid[1]:
        return table
    return torch.cat([class_row, resize_grid(patches[None], rows=grid[0], cols=grid[1])[0]])
