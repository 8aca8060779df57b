"""The frozen teacher: a CLIP image tower that runs on each frame. Its attention draws masks; its features are targets.

A forward pass takes two steps. `Teacher.attend(pixels)` runs all blocks but the last and returns the class token's
attention, from which the mask is drawn. `TeacherPass.features(keep)` then finishes for the kept tokens alone: the same
numbers as a full pass, with less work. Several masks can share the first step. The towers are in `towers.py`.

This is the door to open_clip and, for SigLIP, to timm (seen: open_clip 3.3, timm 1.0). Both load on use.

Shapes: B clips, T frames, F = B·T frames in a row, S patches per frame, P prefix tokens (a class token: 1),
V kept tokens per clip, v kept tokens per frame, W width inside, C width of the output, K aligned layers.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umt_ds.errors import ConfigError, WeightsError
from umt_ds.kernels.cuda_graph import Replayed
from umt_ds.models.alignment import FeatureNorm, unit_length
from umt_ds.models.layers import CLIP, IMAGENET, normalise
from umt_ds.models.positions import resize_grid
from umt_ds.models.presets import VitSize
from umt_ds.models.towers import ClipTower, LastBlock, SiglipTower
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
        self._look: Callable[[Tensor], TeacherPass] = self._attend
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
        another size than the tower's are resized after that: bicubic, no antialias (METHOD.md, "Teacher").
        As a CUDA graph (`accelerate`) the result is overwritten by the next call with the same shape.
        """
        return self._look(pixels)

    def _attend(self, pixels: Tensor) -> TeacherPass:
        x = self._embed(pixels)  # [F,P+S,W]
        states = []
        for index, block in enumerate(self.tower.blocks[:-1]):
            x = block(x)
            if index in self.taps:
                states.append(x)
        clips = len(pixels)
        last = self.tower.last_block(x)
        attention = None
        if self.has_class_token:
            attention = torch.unflatten(last.class_attention(), 0, (clips, -1))  # [B,T,S]
        frames = len(x) // clips
        return TeacherPass(self, clips=clips, frames=frames, states=tuple(states), last=last, attention=attention)

    def accelerate(self, *, compile: bool, graph: bool) -> None:
        """Hand the blocks to torch.compile; replay `attend` as a CUDA graph. Names and numbers of parameters stay."""
        for block in self.tower.blocks[:-1] if compile else ():
            block.compile()
        if graph:
            self._look = Replayed(self._attend)

    def quantise(self) -> None:
        """Multiply in FP8 from now on, except for queries and keys of the last block, from which masks are drawn. Only
        CLIP's own towers can."""
        assert isinstance(self.tower, ClipTower), "place_teacher asks first"
        for block in self.tower.blocks:
            block.quantise()

    def _embed(self, pixels: Tensor) -> Tensor:
        """Clips to the input of the first block: [F,P+S,W]."""
        statistics = IMAGENET if self.pixels == "imagenet" else CLIP
        size = tuple(self.tower.image_size)
        raw = pixels.dtype == torch.uint8
        if raw and tuple(pixels.shape[2:4]) == size and isinstance(self.tower, ClipTower):
            return self.tower.embed_pixels(pixels, statistics)
        if raw:
            frames = normalise(pixels, statistics).flatten(0, 1).permute(0, 3, 1, 2)  # [F,3,H,W]
        else:
            frames = pixels.transpose(1, 2).flatten(0, 1)
        if tuple(frames.shape[-2:]) != size:
            frames = F.interpolate(frames, size=size, mode="bicubic", align_corners=False, antialias=False)
        return self.tower.embed_images(frames.to(next(self.parameters()).dtype))


@dataclass(frozen=True)
class TeacherPass:
    """A forward pass over a batch of clips that stops in the last block, after its attention.

    attention: f32 [B,T,S], the class token's in the last block; None for a tower without class token.
    states: outputs of the aligned blocks but the last, [F,P+S,W] each. last: the rest of the last block, to be run.
    """

    teacher: Teacher
    clips: int
    frames: int
    states: tuple[Tensor, ...]
    last: LastBlock
    attention: Tensor | None

    @torch.no_grad()
    def features(self, keep: Tensor, *, equal_frames: bool = False) -> tuple[Tensor, ...]:
        """The teacher's features of the kept tokens, before any norm: K tensors [M·B,V,C], layers ascending.

        keep: i64 [M·B,V], sorted. The M masks of a clip stand side by side; M is `task.mask.views`, 1 by default.
        equal_frames: promises that all frames keep equally many tokens (`MaskPlan.equal_frames`). Then the last block
        runs on the kept tokens alone, with the same result.
        """
        tower = self.teacher.tower
        kept = [self._take(state, keep) for state in self.states]
        if equal_frames:
            # The last block runs once a frame, for the kept tokens of all M masks: [B,M,T,v] → [B,T,M,v] → [F,M·v].
            # `keep` numbers the tokens of a clip, the block those of a frame: of 196 a frame, token 200 is patch 4
            # of frame 1, and its row is 5, since the class token has row 0.
            by_frame = keep.reshape(self.clips, -1, self.frames, keep.shape[1] // self.frames).transpose(1, 2)
            rows = by_frame.flatten(0, 1).flatten(1) % tower.patches + tower.prefix_tokens
            last = self.last.output(rows).reshape(*by_frame.shape, -1).transpose(1, 2)
            kept.append(last.reshape(*keep.shape, -1))
        else:
            kept.append(self._take(self.last.output(None), keep))
        return tuple(tower.project(tokens) for tokens in kept)

    def targets(self, keep: Tensor, *, equal_frames: bool = False) -> Tensor:
        """`features` as published: f32 [K,M·B,V,C], unit vectors where the teacher's norm is "l2"."""
        features = torch.stack(self.features(keep, equal_frames=equal_frames))
        return unit_length(features) if self.teacher.norm == "l2" else features.float()

    @torch.no_grad()
    def embedding(self) -> Tensor:
        """CLIP's embedding of each frame, which it compares with captions: f32 [B,T,C].

        It is the class token's projection, or the mean over all patches in towers without a class token.
        """
        tower = self.teacher.tower
        if tower.has_class_token:
            device = next(self.teacher.parameters()).device
            first = torch.zeros(self.clips * self.frames, 1, dtype=torch.int64, device=device)
            tokens = self.last.output(first)  # [F,1,W]
        else:
            tokens = self.last.output(None)[:, tower.prefix_tokens :]  # [F,S,W]
        return tower.project(tokens).float().mean(dim=1).view(self.clips, self.frames, -1)

    def _take(self, state: Tensor, keep: Tensor) -> Tensor:
        """The kept tokens of a block output [F,P+S,W], without prefix tokens: [M·B,V,W]."""
        tower = self.teacher.tower
        # each frame has its prefix before its patches: with 1 and 196, token 200 of a clip is row 202 of T·197
        rows = keep + tower.prefix_tokens * (keep // tower.patches + 1)
        clip = torch.arange(self.clips, device=keep.device).repeat_interleave(len(keep) // self.clips)
        return state.reshape(self.clips, -1, state.shape[-1])[clip[:, None], rows]


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
    from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
    from timm.models.vision_transformer import VisionTransformer as TimmTransformer

    vision = dict(config["vision_cfg"])
    is_timm = vision.get("timm_model_name") is not None
    if image_size is not None and not is_timm:  # timm's models fix the size by name
        vision["image_size"] = image_size
    visual = _build_vision_tower(config["embed_dim"], vision, quick_gelu=config.get("quick_gelu", False))
    if isinstance(visual, VisionTransformer):
        plain = all(isinstance(block, ResidualAttentionBlock) for block in visual.transformer.resblocks)
        if plain and visual.attn_pool is None:
            return ClipTower(visual, quick_gelu=isinstance(visual.transformer.resblocks[0].mlp.gelu, QuickGELU))
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
            f"the weights do not fit teacher {name!r}: {_one_line(error)}",
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

    state: as `weights.published.text_teacher_state` makes it; None draws random weights. Raises ConfigError for an
    unknown model, WeightsError for a misfit.
    """
    from open_clip.model import _build_text_tower

    config, _ = _architecture(model, None)
    name = model if isinstance(model, str) else "given as numbers"
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
