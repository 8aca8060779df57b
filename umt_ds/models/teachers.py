"""The frozen teacher: an image tower that runs on each frame. Its attention draws masks; its features are targets.

A forward pass takes two steps. `Teacher.attend(pixels)` runs all blocks but the last and returns the attention of the
class token, or of the pooling head behind the tower, from which the mask is drawn. `TeacherPass.features(keep)` then
finishes for the kept tokens alone: the same numbers as a full pass, with less work. Several masks can share the first
step. The towers are in `towers.py` (CLIP's, opened) and `timm_tower.py` (all others); names are found in
`clip_towers.py`.

Shapes: B clips, T frames, F = B·T frames in a row, S patches per frame, P prefix tokens (a class token: 1),
V kept tokens per clip, v kept tokens per frame, W width inside, C width of the output, K aligned layers.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umt_ds.errors import ConfigError
from umt_ds.kernels.cuda_graph import Replayed
from umt_ds.models.alignment import FeatureNorm, unit_length
from umt_ds.models.clip_towers import (
    PRESETS,
    Architecture,
    build_clip_tower,
    load_clip,
    open_clip_architecture,
    open_clip_names,
    statistics_of,
    timm_model_of,
)
from umt_ds.models.layers import CLIP, IMAGENET, PixelStatistics, normalise
from umt_ds.models.presets import VitSize
from umt_ds.models.towers import ClipTower, Features, LastBlock, MapSource, TimmModel
from umt_ds.models.vit import tap_layers

if TYPE_CHECKING:
    from umt_ds.models.timm_tower import TimmTower

TeacherPixels = Literal["imagenet", "clip", "own"]


class Teacher(nn.Module):
    """A frozen tower with the rule of which layers to align. Never trains: `train()` leaves it in eval mode.

    pixels: whose mean and deviation are applied to uint8 clips; all published UMT weights were made with
    ImageNet's, although CLIP was trained with its own; "own" are those that the tower was trained with. norm: "l2"
    makes each target a unit vector. Raises ConfigError where nothing says what a tower's own are.
    """

    def __init__(
        self,
        tower: ClipTower | TimmTower,
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
        self.statistics = _statistics(tower, pixels)
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
    def embed_width(self) -> int:
        """The width of `TeacherPass.embedding`, whatever the features are."""
        return self.tower.embed_width

    @property
    def map_source(self) -> MapSource | None:
        """Whose attention semantic masks are drawn from; None where nothing in the tower looks at patches so."""
        return self.tower.map_source

    @property
    def summary(self) -> str:
        """How the tower is run, in a sentence."""
        tower, mean = self.tower, ", ".join(f"{value:g}" for value in self.statistics.mean)
        masks = (
            f"masks from the attention of its {tower.map_source}" if tower.map_source else "no map to draw masks from"
        )
        reason = "its pooling head looks at all tokens" if tower.map_source else "its blocks are not known here"
        last = "kept tokens alone" if tower.is_lean else f"all tokens ({reason})"
        return (
            f"{tower.name} at {tower.image_size[0]} px, {tower.grid[0]} x {tower.grid[1]} patches and "
            f"{tower.prefix_tokens} prefix tokens; {tower.features} features of width {tower.out_width}, pixels of "
            f"mean {mean}; {masks}; the last block runs on {last}"
        )

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
        states, context = [], self.tower.contexts()
        for index, block in enumerate(self.tower.blocks[:-1]):
            x = block(x, **context)
            if index in self.taps:
                states.append(x)
        clips = len(pixels)
        last = self.tower.last_block(x)
        attention = None
        if self.map_source is not None:
            attention = torch.unflatten(last.attention(), 0, (clips, -1))  # [B,T,S]
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
        size = tuple(self.tower.image_size)
        raw = pixels.dtype == torch.uint8
        if raw and tuple(pixels.shape[2:4]) == size and self.tower.embeds_pixels:
            return self.tower.embed_pixels(pixels, self.statistics)
        if raw:
            frames = normalise(pixels, self.statistics).flatten(0, 1).permute(0, 3, 1, 2)  # [F,3,H,W]
        else:
            frames = pixels.transpose(1, 2).flatten(0, 1)
        if tuple(frames.shape[-2:]) != size:
            frames = F.interpolate(frames, size=size, mode="bicubic", align_corners=False, antialias=False)
        return self.tower.embed_images(frames.to(next(self.parameters()).dtype))


@dataclass(frozen=True)
class TeacherPass:
    """A forward pass over a batch of clips that stops in the last block, after its attention.

    attention: f32 [B,T,S], the class token's in the last block or the pooling head's; None for a tower without both.
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
        """The tower's own embedding of each frame, which a CLIP compares with captions: f32 [B,T,C]."""
        frames = self.clips * self.frames
        return self.teacher.tower.frame_embedding(self.last, frames).float().view(self.clips, self.frames, -1)

    def _take(self, state: Tensor, keep: Tensor) -> Tensor:
        """The kept tokens of a block output [F,P+S,W], without prefix tokens: [M·B,V,W]."""
        tower = self.teacher.tower
        # each frame has its prefix before its patches: with 1 and 196, token 200 of a clip is row 202 of T·197
        rows = keep + tower.prefix_tokens * (keep // tower.patches + 1)
        clip = torch.arange(self.clips, device=keep.device).repeat_interleave(len(keep) // self.clips)
        return state.reshape(self.clips, -1, state.shape[-1])[clip[:, None], rows]


def _statistics(tower: ClipTower | TimmTower, pixels: TeacherPixels) -> PixelStatistics:
    match pixels:
        case "imagenet":
            return IMAGENET
        case "clip":
            return CLIP
        case "own":
            if tower.own_pixels is None:
                raise ConfigError(
                    f"pixels=own, but weights called {tower.name} were trained with several means, and "
                    "nothing beside these says which",
                    hint="name the folder of the weights, with its open_clip_config.json, config.json or "
                    "preprocessor_config.json; or pixels=clip or imagenet",
                )
            return tower.own_pixels


def build_teacher(
    model: str | Architecture,
    *,
    layers: int = 6,
    interval: float = 1.0,
    norm: FeatureNorm = "l2",
    pixels: TeacherPixels = "imagenet",
    features: Features | None = None,
    image_size: int | None = None,
    state: Mapping[str, Tensor] | None = None,
    own_pixels: PixelStatistics | None = None,
    seed: int = 0,
) -> Teacher:
    """A teacher by preset ("clip_b16", "clip_l14", "clip_l14_336"), open_clip's or timm's name, or architecture.

    image_size: the side it looks at, where not its own; positions are resized by the library's rule (open_clip's own
    towers: bicubic, without antialias, as published). state: weights in the names of the library (`names_of`); None
    draws random ones from `seed`. own_pixels: what the folder of the weights says of `pixels="own"`. Raises ConfigError
    for a model that cannot teach, WeightsError for a misfit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        tower = _build_tower(model, image_size, features=features, own_pixels=own_pixels)
    if state is not None:
        _load(tower, state)
    return Teacher(tower, layers=layers, interval=interval, norm=norm, pixels=pixels)


def is_timms(model: str | Architecture) -> bool:
    """Whether the tower of that name is timm's, so that its weights have timm's names; else they have open_clip's.

    Raises ConfigError for an unknown name.
    """
    return isinstance(_resolved(model, None)[0], TimmModel)


def _resolved(model: str | Architecture, image_size: int | None) -> tuple[TimmModel | Architecture, int | None, str]:
    """What a name stands for: a model of timm or an open_clip config; the image size, None for its own; the name."""
    name = model if isinstance(model, str) else "given as numbers"
    found = (model, None) if not isinstance(model, str) else open_clip_architecture(model)
    if found is not None:
        config, preset_size = found
        size = image_size or preset_size
        return timm_model_of(config, size, name) or config, size, name
    from umt_ds.models.timm_tower import is_timm_name, timm_names

    if is_timm_name(name):
        return TimmModel(name, image_size=image_size), image_size, name
    near = difflib.get_close_matches(name, [*open_clip_names(), *timm_names()], n=3, cutoff=0.4)
    raise ConfigError(
        f"no teacher is called {name!r}: neither open_clip nor timm has it",
        hint=f"nearest: {', '.join(near or PRESETS)}",
    )


def _build_tower(
    model: str | Architecture, image_size: int | None, *, features: Features | None, own_pixels: PixelStatistics | None
) -> ClipTower | TimmTower:
    """The image tower alone, with random weights; the libraries' own builders read the many keys of a config."""
    found, size, name = _resolved(model, image_size)
    is_open_clips = not (isinstance(found, TimmModel) and found.name == name)
    statistics = own_pixels or (statistics_of(name) if is_open_clips else None)
    if isinstance(found, TimmModel):
        from umt_ds.models.timm_tower import build_timm_tower

        return build_timm_tower(found, name=name, features=features, statistics=statistics)
    return build_clip_tower(name, found, image_size=size, features=features, statistics=statistics)


def _load(tower: ClipTower | TimmTower, state: Mapping[str, Tensor]) -> None:
    if isinstance(tower, ClipTower):
        load_clip(tower, state)
        return
    from umt_ds.models.timm_tower import load_timm

    load_timm(tower, state)
